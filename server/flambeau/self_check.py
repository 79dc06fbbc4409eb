"""Before a version takes requests: run the archive's samples, warm up, compare with the record.

Samples run through the handler's `inference`, alone and in batches of the size that is served, so
that a program which is wrong, was exported for one batch size only, or lets its samples influence
each other, is never live.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from flambeau.errors import HandlerFailed
from flambeau.parity import Comparison, Samples, Tolerance, compare, named_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NUM_RUNS: Final = 2  # TorchScript profiles in the first, optimises in the second
_WARM_UP_BETWEEN_S: Final = 0.2
_CUDA_SHARE: Final = 0.01  # TF32 keeps 10 bits of a factor, and a deep net adds up the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """An archive's samples and the model they are run through.

    Attributes:
        inference: Takes the program's inputs, gives its outputs.
        samples: What was recorded at export.
        max_batch_size: The size of a full batch.
        device: Where the model is.
        allowed_share: Numbers may be off by this share of the largest output, whatever the archive
            says; then each sample's most probable class must be the recorded one.
    """

    inference: Callable[..., Any]
    samples: Samples
    max_batch_size: int
    device: torch.device
    allowed_share: float = 0.0

    def warm_up(self) -> None:
        """Run one sample until nothing is done for the first time.

        And full batches, which the comparison runs once, on CUDA, where kernels may be compiled for
        them.

        Raises:
            Exception: Whatever the model raises.
        """
        for batch_size in self.batch_sizes if self.device.type == "cuda" else [1]:
            for _ in range(_NUM_RUNS):
                self.run(start=0, batch_size=batch_size)

    def warm_up_between(self) -> None:
        """Run batches of the sizes between, too, smallest first, as long as that takes no time.

        Libraries prepare themselves for each size anew, which takes milliseconds at most.
        """
        until = time.perf_counter() + _WARM_UP_BETWEEN_S
        for batch_size in range(2, self.max_batch_size):
            if time.perf_counter() > until:
                break
            self.run(start=0, batch_size=batch_size)

    def compare(self, *, only_alone: bool = False) -> str:
        """Compare the model's outputs with the recorded ones, alone and in full batches.

        On a CUDA device, where convolutions round to TF32 and sums run in another order than on
        the CPU that recorded them, numbers may be off by 1 % of the largest output, if the archive
        does not allow more.

        Args:
            only_alone: Whether full batches have been compared on this machine before.

        Returns:
            What was found, e.g. `8 samples, max abs error 1.2e-07, top-1 8/8`.

        Raises:
            HandlerFailed: They are further apart than is allowed; names the worst sample.
            Exception: Whatever the model raises.
        """
        batch_sizes = [1] if only_alone else self.batch_sizes
        found = [self._compared(size, self.run_all(size)) for size in batch_sizes]
        top1 = [each.top1_agreement for each in found if each.top1_agreement is not None]
        num_samples = len(self.samples)
        max_abs_error = max(each.max_abs_error for each in found)
        text = f"{num_samples} samples, max abs error {max_abs_error:.2g}"
        return f"{text}, top-1 {round(min(top1) * num_samples)}/{num_samples}" if top1 else text

    def compare_first(self) -> None:
        """Compare one sample, in a process forked from one that has compared them all.

        Raises:
            HandlerFailed: It differs.
            Exception: Whatever the model raises.
        """
        self._compared(1, self.run(start=0, batch_size=1), count=1)

    @property
    def batch_sizes(self) -> list[int]:
        """A single sample, and a full batch."""
        return sorted({1, self.max_batch_size})

    def run_all(self, batch_size: int) -> tuple[torch.Tensor, ...]:
        """The outputs for all samples, computed in batches of exactly this size, on the CPU."""
        num_samples = len(self.samples)
        batches = [
            self.run(start=start, batch_size=batch_size)
            for start in range(0, num_samples, batch_size)
        ]
        return tuple(torch.cat(parts)[:num_samples] for parts in zip(*batches, strict=True))

    def inputs(self, *, start: int, batch_size: int) -> list[torch.Tensor]:
        """One batch from sample `start` on; after the last sample comes the first again."""
        places = torch.arange(start, start + batch_size) % len(self.samples)
        return [tensor[places].to(self.device) for tensor in self.samples.inputs]

    def run(self, *, start: int, batch_size: int) -> list[torch.Tensor]:
        """The outputs for one batch, on the CPU."""
        inputs = self.inputs(start=start, batch_size=batch_size)
        outputs = named_outputs(self.inference(*inputs))
        # copying to the CPU waits for the device
        return [output.detach().cpu() for output in outputs.values()]

    def _compared(
        self, batch_size: int, outputs: Sequence[torch.Tensor], *, count: int | None = None
    ) -> Comparison:
        """Compare outputs, computed in batches of this size, with what was recorded.

        Args:
            batch_size: For the message.
            outputs: For the first samples, in order.
            count: How many those are; None for all.

        Raises:
            HandlerFailed: They differ; names the worst sample.
        """
        tolerance = self._tolerance()
        recorded = [output[:count] for output in self.samples.outputs]
        comparison = compare(recorded, outputs, tolerance)
        if not comparison.agrees:
            raise HandlerFailed(
                "the model does not compute what was recorded when it was exported (batch size "
                f"{batch_size}, allowed {tolerance.atol:.2g} + {tolerance.rtol:.2g} * |expected|): "
                f"{comparison.detail}; export it again, or set check_samples = False in a handler "
                "whose inference differs from the program on purpose"
            )
        top1 = comparison.top1_agreement
        least = 1.0 if self.allowed_share else tolerance.top1
        if top1 is not None and top1 < least:
            raise HandlerFailed(
                "another class than the recorded one is the most probable for "
                f"{1 - top1:.0%} of the samples"
            )
        return comparison

    def _tolerance(self) -> Tolerance:
        tolerance = self.samples.tolerance
        on_cuda = _CUDA_SHARE if self.device.type == "cuda" else 0.0
        share = max(tolerance.share, self.allowed_share, on_cuda)
        return replace(tolerance, share=share).scaled(self.samples.outputs)
