"""Looking into a run while it trains: what waits, how large gradients are, where the time goes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile, schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor, nn

T = TypeVar("T")
_UNTRACED_STEPS = 2  # the first ones allocate memory and choose kernels


class Waited(Generic[T]):
    """What something yields, and how long it lets wait.

    Attributes:
        seconds: Waited so far.
    """

    def __init__(self, source: Iterable[T]) -> None:
        self.seconds = 0.0
        self._source = source

    def __iter__(self) -> Iterator[T]:
        iterator = iter(self._source)
        while True:
            began_at = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - began_at
            yield item


class GradientNorms:
    """The norm of each parameter's gradient after the last backward pass, by hooks on parameters.

    Among several ranks it is this rank's, before they are averaged; of a sharded gradient, after.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    partial(self._note, name)
                )

    def read(self) -> dict[str, float]:
        """By parameter name; waits for the device."""
        return {name: float(norm) for name, norm in self._norms.items()}

    def _note(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        norm = parameter.grad.detach().norm()
        self._norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm


class StepTrace(AbstractContextManager["StepTrace"]):
    """Traces some steps of a run, for https://ui.perfetto.dev.

    Args:
        path: The file, written after the last traced step.
        num_steps: How many, after the first two; 0 traces nothing.
    """

    def __init__(self, path: Path, *, num_steps: int) -> None:
        self._profile: profile | None = None
        if num_steps:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(
                activities=activities,
                schedule=schedule(wait=_UNTRACED_STEPS - 1, warmup=1, active=num_steps, repeat=1),
                on_trace_ready=partial(_write, path),
            )

    def __enter__(self) -> StepTrace:
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._profile is not None:
            self._profile.stop()

    def step(self) -> None:
        """Call it after each step."""
        if self._profile is not None:
            self._profile.step()


def _write(path: Path, traced: profile) -> None:
    traced.export_chrome_trace(str(path))
