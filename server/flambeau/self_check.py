"""Before a version takes requests: run the archive's samples, warm up, compare with the record.

Samples run through the handler's `inference`, alone and in batches of the size that is served, so
that a program which is wrong, was exported for one batch size only, or lets its samples influence
each other, is never live.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from flambeau.errors import HandlerFailed
from flambeau.parity import Samples, Tolerance, compare, named_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

_NUM_WARM_UP_RUNS: Final = 3  # TorchScript profiles in the first, optimises in the second
_CUDA_SHARE: Final = 0.01  # TF32 keeps 10 bits of a factor, and a deep net adds up the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """An archive's samples and the model they are run through.

    Attributes:
        inference: Takes the program's inputs, gives its outputs.
        samples: What was recorded at export.
        max_batch_size: The size of a full batch.
        device: Where the model is.
    """

    inference: Callable[..., Any]
    samples: Samples
    max_batch_size: int
    device: torch.device

    def warm_up(self) -> None:
        """Run one sample and a full batch until nothing is done for the first time.

        Raises:
            Exception: Whatever the model raises.
        """
        for batch_size in self._batch_sizes():
            for _ in range(_NUM_WARM_UP_RUNS):
                self._run(start=0, batch_size=batch_size)

    def compare(self) -> str:
        """Compare the model's outputs with the recorded ones, alone and in full batches.

        On a CUDA device, where convolutions round to TF32 and sums run in another order than on
        the CPU that recorded them, numbers may be off by 1 % of the largest output, if the archive
        does not allow more.

        Returns:
            What was found, e.g. `8 samples, max abs error 1.2e-07, top-1 8/8`.

        Raises:
            HandlerFailed: They are further apart than is allowed; names the worst sample.
            Exception: Whatever the model raises.
        """
        tolerance = self._tolerance()
        samples = self.samples
        errors: list[float] = []
        top1: list[float] = []
        for batch_size in self._batch_sizes():
            comparison = compare(samples.outputs, self._run_all(batch_size), tolerance)
            if not comparison.agrees:
                raise HandlerFailed(
                    "the model does not compute what was recorded when it was exported (batch "
                    f"size {batch_size}, allowed {tolerance.atol:.2g} + {tolerance.rtol:.2g} * "
                    f"|expected|): {comparison.detail}; export it again, or set check_samples = "
                    "False in a handler whose inference differs from the program on purpose"
                )
            errors.append(comparison.max_abs_error)
            if comparison.top1_agreement is not None:
                top1.append(comparison.top1_agreement)
        found = f"{len(samples)} samples, max abs error {max(errors):.2g}"
        return f"{found}, top-1 {round(min(top1) * len(samples))}/{len(samples)}" if top1 else found

    def _batch_sizes(self) -> list[int]:
        return sorted({1, self.max_batch_size})

    def _run_all(self, batch_size: int) -> tuple[torch.Tensor, ...]:
        """The outputs for all samples, computed in batches of exactly this size, on the CPU."""
        num_samples = len(self.samples)
        batches = [
            self._run(start=start, batch_size=batch_size)
            for start in range(0, num_samples, batch_size)
        ]
        return tuple(torch.cat(parts)[:num_samples] for parts in zip(*batches, strict=True))

    def _run(self, *, start: int, batch_size: int) -> list[torch.Tensor]:
        """One batch from sample `start` on; after the last sample comes the first again."""
        places = torch.arange(start, start + batch_size) % len(self.samples)
        inputs = [tensor[places].to(self.device) for tensor in self.samples.inputs]
        outputs = named_outputs(self.inference(*inputs))
        # copying to the CPU waits for the device
        return [output.detach().cpu() for output in outputs.values()]

    def _tolerance(self) -> Tolerance:
        tolerance = self.samples.tolerance
        if self.device.type != "cuda":
            return tolerance
        floats = [output for output in self.samples.outputs if output.is_floating_point()]
        largest = max((float(output.abs().max()) for output in floats), default=0.0)
        return replace(tolerance, atol=max(tolerance.atol, _CUDA_SHARE * largest))
