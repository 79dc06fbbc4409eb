"""Copies of the next batch to a CUDA device while the device computes another.

They go by a stream of their own, from pinned memory. What computes on them waits for their arrival
on the device, not here, and their memory is not used again before it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Arrival:
    """Tensors on their way to a device.

    Attributes:
        tensors: All of them; their content is there once `wait` has been called.
    """

    tensors: tuple[torch.Tensor, ...]
    _event: torch.cuda.Event

    def wait(self) -> None:
        """Let what the current stream computes from now on find their content."""
        for tensor in self.tensors:
            stream = torch.cuda.current_stream(tensor.device)
            stream.wait_event(self._event)
            tensor.record_stream(stream)


class SideCopies:
    """The stream of one device; used by one thread at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # not annotated

    def begin(self, tensors: Iterable[torch.Tensor]) -> Arrival:
        """Send tensors off, in their order; those that are there already stay."""
        with torch.cuda.stream(self._stream):
            sent = tuple(self._sent(tensor) for tensor in tensors)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # not annotated
            event.record(self._stream)
            return Arrival(sent, event)

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def regrouped(
    tensors: Sequence[torch.Tensor], sizes: Iterable[int]
) -> list[tuple[torch.Tensor, ...]]:
    """Tensors in a row as groups of these sizes, in order."""
    groups: list[tuple[torch.Tensor, ...]] = []
    at = 0
    for size in sizes:
        groups.append(tuple(tensors[at : at + size]))
        at += size
    return groups
