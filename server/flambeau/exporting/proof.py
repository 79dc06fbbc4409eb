"""The proof that a program computes what the model computes, at every size that it leaves open.

A trace writes down the sizes it saw, so a program is run with 1, 2 and 7 rows and with a full batch
as well as with the number it was made with: a server batches whatever is waiting. Other open sizes
are run at both edges and in the middle. A trace writes down the branches it took, too, so the
samples are compared with their signs turned as well. At last, each sample is run alone and in
company, which must not change its answer. `prove` is given two callables and knows nothing of
formats or archives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from flambeau.errors import ExportError
from flambeau.exporting.dims import BATCH, Axes, resized
from flambeau.parity import Comparison, Tolerance, compare, named_outputs

BATCH_SIZES = (1, 2, 7)  # one, the smallest batch, and an odd one that nobody's code expects
_MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class AtSizes:
    """How far a program is from the model in batches of certain sizes.

    Attributes:
        sizes: By dimension: the batch, and others that are open.
        comparison: Over the batch.
    """

    sizes: Mapping[str, int]
    comparison: Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What was compared and how far it was apart.

    Attributes:
        samples: The comparison over all samples as one batch.
        at_sizes: Further comparisons, all of which agreed.
        batch_invariance: The program's answers in a batch of all samples, held against those alone.
    """

    samples: Comparison
    at_sizes: tuple[AtSizes, ...]
    batch_invariance: Comparison

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those at which the program agreed with the model, beside the samples' own."""
        return tuple(sorted({each.sizes[BATCH] for each in self.at_sizes}))


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a program is to be compared on.

    Attributes:
        model: The model, in evaluation mode.
        samples: Its inputs, (N, ...) each.
        axes: The open axes of each input.
        example_rows: The batch size that programs are made with: where one fails at this size too,
            the batch size is not the reason.
        full_batch: The size of a full batch.
    """

    model: Callable[..., object]
    samples: Sequence[torch.Tensor]
    axes: Axes
    example_rows: int
    full_batch: int

    def inputs(self, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        """Samples, repeated or cut to these sizes."""
        return resized(self.samples, self.axes, sizes)

    def sizes(self) -> list[dict[str, int]]:
        """Batches of all sizes; then each open dimension at its own, and all at their edges."""
        batches = sorted({*BATCH_SIZES, self.full_batch})
        found = [{BATCH: size} for size in batches]
        dims = list({dim.name: dim for axes in self.axes for dim in axes.values()}.values())
        found += [{BATCH: 2, dim.name: size} for dim in dims for size in dim.sizes]
        if dims:
            found.append({BATCH: 1, **{dim.name: dim.min for dim in dims}})
            found.append({BATCH: self.full_batch, **{dim.name: dim.max for dim in dims}})
        return found


def run(function: Callable[..., object], inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs for one batch, without autograd, by name.

    Raises:
        TypeError: They are not tensors.
        Exception: Whatever the function raises.
    """
    with torch.no_grad():
        return named_outputs(function(*inputs))


def prove(
    question: Question,
    program: Callable[..., object],
    *,
    tolerance: Tolerance,
    frozen_batch_hint: str,
    turns_signs: bool = True,
) -> Proof:
    """Run model and program on the same batches and compare.

    Args:
        question: The model, and what to run.
        program: What is to replace the model.
        tolerance: How far outputs may be apart.
        frozen_batch_hint: The next step when the program follows no other batch size.
        turns_signs: Whether it is to be right for inputs that are unlike the samples, too.

    Raises:
        ExportError: The model itself fails at some size, the program follows one size only, its
            numbers are outside the tolerance, or a sample's answer depends on others; the message
            shows the worst sample.
    """
    own = {BATCH: question.example_rows}
    _require_agreement(_compare(question, program, question.inputs(own), tolerance), tolerance)
    at_sizes: list[AtSizes] = []
    for sizes in question.sizes():
        comparison = _compare(question, program, question.inputs(sizes), tolerance)
        if not comparison.agrees:
            raise ExportError(
                f"the program was made with {_sizes(own)} and does not follow {_sizes(sizes)} "
                f"({comparison.detail}); {frozen_batch_hint}"
            )
        at_sizes.append(AtSizes(sizes=sizes, comparison=comparison))
    comparison = _compare(question, program, question.samples, tolerance)
    _require_agreement(comparison, tolerance)
    if turns_signs:
        _require_agreement_elsewhere(question, program, tolerance)
    return Proof(
        samples=comparison,
        at_sizes=tuple(at_sizes),
        batch_invariance=_require_batch_invariance(question, program, tolerance),
    )


def _compare(
    question: Question,
    program: Callable[..., object],
    inputs: Sequence[torch.Tensor],
    tolerance: Tolerance,
) -> Comparison:
    try:
        expected = list(run(question.model, inputs).values())
    except Exception as error:
        shapes = ", ".join(str(list(each.shape)) for each in inputs)
        raise ExportError(
            f"the model itself fails with a batch of {len(inputs[0])} (inputs of {shapes}): "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        got = list(run(program, inputs).values())
    except Exception as error:  # noqa: BLE001  # a program that fails is one that disagrees
        return _failed(len(inputs[0]), error)
    return compare(expected, got, tolerance.scaled(expected))


def _require_agreement_elsewhere(
    question: Question, program: Callable[..., object], tolerance: Tolerance
) -> None:
    """On inputs that are unlike the samples, where the model takes such."""
    turned = [-each if each.dtype.is_floating_point else each for each in question.samples]
    try:
        comparison = _compare(question, program, turned, tolerance)
    except ExportError:  # of the model: they are made up, and need not be what it takes
        return
    if not comparison.agrees:
        raise ExportError(
            "the program computes what the model computes on the samples, but not with their signs "
            f"turned: {comparison.detail}. A branch of forward() that depends on values has been "
            "recorded as it went; use method='script' (--method script), torch.where or torch.cond"
        )


def _require_batch_invariance(
    question: Question, program: Callable[..., object], tolerance: Tolerance
) -> Comparison:
    """Each sample alone, and all together: the server puts strangers into one batch."""
    together = question.inputs({BATCH: max(2, len(question.samples[0]))})
    alone = [
        list(run(program, [each[place : place + 1] for each in together]).values())
        for place in range(len(together[0]))
    ]
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    got = list(run(program, together).values())
    comparison = compare(expected, got, tolerance.scaled(expected))
    if not comparison.agrees:
        raise ExportError(
            "an answer depends on the other samples of its batch, and a server puts requests of "
            f"different clients into one: {comparison.detail}. Look for means, norms or sums over "
            "the batch in forward()"
        )
    return comparison


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


def _require_agreement(comparison: Comparison, tolerance: Tolerance) -> None:
    if not comparison.agrees:
        raise ExportError(
            "the program does not compute what the model computes: worst is "
            f"{comparison.detail}; largest error {comparison.max_abs_error:.3g} absolute, "
            f"{comparison.max_rel_error:.3g} relative over {comparison.num_samples} samples. "
            "Look for branches, randomness or state in forward(), or allow more with tolerance"
        )
    top1 = comparison.top1_agreement
    if top1 is not None and top1 < tolerance.top1:
        named = ", ".join(map(str, comparison.other_top1[:_MAX_NAMED]))
        raise ExportError(
            f"the program puts another class in front for {len(comparison.other_top1)} of "
            f"{comparison.num_samples} samples ({named}), and {tolerance.top1:.0%} must agree; use "
            "more bits, better samples to calibrate on, or allow less agreement (--top1)"
        )


def _sizes(sizes: Mapping[str, int]) -> str:
    others = [f"{name} {size}" for name, size in sizes.items() if name != BATCH]
    return " and ".join([f"a batch of {sizes[BATCH]}", *others])
