"""The proof that a program computes what the model computes, at every batch size.

A trace writes down the sizes it saw, so a program is run with 1, 2 and 7 rows as well as with the
number it was made with: a server batches whatever is waiting. It writes down the branches it took,
too, so the samples are compared with their signs turned as well. `prove` is given two callables and
knows nothing of formats or archives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from flambeau.errors import ExportError
from flambeau.parity import Comparison, Tolerance, compare, named_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH_SIZES = (1, 2, 7)  # one, the smallest batch, and an odd one that nobody's code expects


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What was compared and how far it was apart.

    Attributes:
        samples: The comparison over all samples as one batch.
        batch_sizes: The other batch sizes at which the program agreed with the model.
    """

    samples: Comparison
    batch_sizes: tuple[int, ...]

    def to_json(self, *, tolerance: Tolerance, samples_sha256: str, weights_sha256: str) -> bytes:
        """`MAR-INF/parity.json`: the numbers, what they were held to, and whose they are.

        Args:
            tolerance: How far outputs were allowed to be apart.
            samples_sha256: Of `MAR-INF/samples.safetensors`.
            weights_sha256: Of the program's file.
        """
        document = {
            "verdict": "pass",
            "num_samples": self.samples.num_samples,
            "batch_sizes": self.batch_sizes,
            "tolerance": {"atol": tolerance.atol, "rtol": tolerance.rtol},
            "max_abs_error": self.samples.max_abs_error,
            "max_rel_error": self.samples.max_rel_error,
            "mean_abs_error": self.samples.mean_abs_error,
            "top1_agreement": self.samples.top1_agreement,
            "samples_sha256": samples_sha256,
            "weights_sha256": weights_sha256,
        }
        return (json.dumps(document, indent=2) + "\n").encode()


def run(function: Callable[..., object], inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs for one batch, without autograd, by name.

    Raises:
        TypeError: They are not tensors.
        Exception: Whatever the function raises.
    """
    with torch.no_grad():
        return named_outputs(function(*inputs))


def rows(inputs: Sequence[torch.Tensor], *, num_rows: int) -> tuple[torch.Tensor, ...]:
    """A batch of this many rows, made by repeating the given ones in turn."""
    index = torch.arange(num_rows) % len(inputs[0])
    return tuple(tensor[index.to(tensor.device)] for tensor in inputs)


def prove(
    model: Callable[..., object],
    program: Callable[..., object],
    samples: Sequence[torch.Tensor],
    *,
    example_rows: int,
    tolerance: Tolerance,
    frozen_batch_hint: str,
) -> Proof:
    """Run both on the same batches and compare.

    Args:
        model: The model, in evaluation mode.
        program: What is to replace it.
        samples: The inputs, (N, ...) each.
        example_rows: The batch size the program was made with: where it fails at this size too,
            the batch size is not the reason.
        tolerance: How far outputs may be apart.
        frozen_batch_hint: The next step when the program follows no other batch size.

    Raises:
        ExportError: The model itself fails at some batch size, the program follows one batch size
            only, or its numbers are outside the tolerance; the message shows the worst sample.
    """
    _require_agreement(_compare(model, program, rows(samples, num_rows=example_rows), tolerance))
    for num_rows in BATCH_SIZES:
        comparison = _compare(model, program, rows(samples, num_rows=num_rows), tolerance)
        if not comparison.agrees:
            raise ExportError(
                f"the program was made with a batch of {example_rows} and does not follow a batch "
                f"of {num_rows} ({comparison.detail}); {frozen_batch_hint}"
            )
    comparison = _compare(model, program, samples, tolerance)
    _require_agreement(comparison)
    _require_agreement_elsewhere(model, program, samples, tolerance)
    return Proof(samples=comparison, batch_sizes=BATCH_SIZES)


def _compare(
    model: Callable[..., object],
    program: Callable[..., object],
    inputs: Sequence[torch.Tensor],
    tolerance: Tolerance,
) -> Comparison:
    try:
        expected = list(run(model, inputs).values())
    except Exception as error:
        raise ExportError(
            f"the model itself fails with a batch of {len(inputs[0])}: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        got = list(run(program, inputs).values())
    except Exception as error:  # noqa: BLE001  # a program that fails is one that disagrees
        return _failed(len(inputs[0]), error)
    return compare(expected, got, tolerance)


def _require_agreement_elsewhere(
    model: Callable[..., object],
    program: Callable[..., object],
    samples: Sequence[torch.Tensor],
    tolerance: Tolerance,
) -> None:
    """On inputs that are unlike the samples, where the model takes such."""
    turned = [-each if each.dtype.is_floating_point else each for each in samples]
    try:
        comparison = _compare(model, program, turned, tolerance)
    except ExportError:  # of the model: they are made up, and need not be what it takes
        return
    if not comparison.agrees:
        raise ExportError(
            "the program computes what the model computes on the samples, but not with their signs "
            f"turned: {comparison.detail}. A branch of forward() that depends on values has been "
            "recorded as it went; use method='script' (--method script), torch.where or torch.cond"
        )


def _failed(num_rows: int, error: Exception) -> Comparison:
    reason = str(error).strip().rpartition("\n")[2]  # TorchScript puts its own traceback first
    return Comparison(
        agrees=False,
        num_samples=num_rows,
        max_abs_error=torch.inf,
        max_rel_error=torch.inf,
        mean_abs_error=torch.inf,
        top1_agreement=None,
        worst_sample=0,
        detail=f"it raised {type(error).__name__}: {reason}",
    )


def _require_agreement(comparison: Comparison) -> None:
    if not comparison.agrees:
        raise ExportError(
            "the program does not compute what the model computes: worst is "
            f"{comparison.detail}; largest error {comparison.max_abs_error:.3g} absolute, "
            f"{comparison.max_rel_error:.3g} relative over {comparison.num_samples} samples. "
            "Look for branches, randomness or state in forward(), or allow more with tolerance"
        )
