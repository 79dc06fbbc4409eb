"""Whether a program computes what the model computed: recorded samples, and comparing outputs.

The exporter compares and records; the worker reads the record and compares again on its own device
before it takes requests. What is compared always is a sequence of tensors with the batch first.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.torch
import torch

from flambeau.certificate import read_certificate
from flambeau.errors import ArchiveError
from flambeau.signature import SAMPLES_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far outputs may be apart: `|expected - got| <= atol + rtol * |expected|`.

    The defaults suit float32 on one kind of device. TF32 and half precision need more.

    Attributes:
        atol: Absolute.
        rtol: Of the expected number.
        share: Of the largest expected number of all; `atol` is at least that, see `scaled`.
        top1: The least share of samples whose largest class must be the same, 0 to 1.
    """

    atol: float = 1e-5
    rtol: float = 1e-4
    share: float = 0.0
    top1: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; use a finite number of 0 or more")
        if self.top1 > 1:
            raise ValueError(f"top1 is {self.top1}; use a share of 0 to 1")

    def scaled(self, expected: Sequence[torch.Tensor]) -> Tolerance:
        """The tolerance in numbers, for these outputs."""
        return replace(self, atol=max(self.atol, self.share * largest_number(expected)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How two runs on the same samples differ.

    Attributes:
        agrees: Whether every number is within the tolerance.
        num_samples: How many samples were compared.
        max_abs_error: The largest absolute difference; infinite where only one is NaN or infinite.
        max_rel_error: The largest difference in units of the expected number's magnitude, among
            numbers whose difference is over `atol`, or, with a share, that are over `atol`
            themselves; 0 when there are none.
        mean_abs_error: Over all numbers of all outputs.
        top1_agreement: Share of samples whose largest class is the same, in the first output that
            is floating point and (B, C) with C of 2 or more; None without one.
        other_top1: The samples for which it is not.
        worst_sample: Index of the sample furthest outside the tolerance, or least inside.
        detail: That sample in words: where, what was expected, what came.
    """

    agrees: bool
    num_samples: int
    max_abs_error: float
    max_rel_error: float
    mean_abs_error: float
    top1_agreement: float | None
    worst_sample: int
    detail: str
    other_top1: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """What an archive recorded at export, on the CPU.

    Attributes:
        inputs: The program's inputs in order, each with N samples.
        outputs: What the model in Python gave for them, in order.
        tolerance: What the exported program was held to.
    """

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    tolerance: Tolerance

    def __len__(self) -> int:
        return len(self.inputs[0])

    def to_safetensors(self) -> bytes:
        """The file's content: `input_0`, `input_1`, ..., `output_0`, ..."""
        named = {f"input_{i}": tensor for i, tensor in enumerate(self.inputs)}
        named |= {f"output_{i}": tensor for i, tensor in enumerate(self.outputs)}
        # cloned, because safetensors refuses tensors that share memory: an output may be an input
        return safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
        )


def compare(
    expected: Sequence[torch.Tensor], got: Sequence[torch.Tensor], tolerance: Tolerance
) -> Comparison:
    """Compare two runs number by number, in float64 on the CPU.

    NaN agrees with NaN, an infinity with the same infinity. Another number of outputs, shape or
    dtype does not agree; all errors are infinite then.

    Args:
        expected: At least one tensor, each (N, ...) with the same N of 1 or more.
        got: What is held against it.
        tolerance: How far they may be apart.
    """
    mismatch = _mismatch(expected, got)
    if mismatch is not None:
        return Comparison(
            agrees=False,
            num_samples=len(expected[0]),
            max_abs_error=math.inf,
            max_rel_error=math.inf,
            mean_abs_error=math.inf,
            top1_agreement=None,
            worst_sample=0,
            detail=mismatch,
        )
    differences = [
        _Difference.of(index, one, other, tolerance)
        for index, (one, other) in enumerate(zip(expected, got, strict=True))
    ]
    worst = max(differences, key=lambda difference: difference.excess)
    num_numbers = sum(tensor.numel() for tensor in expected)
    num_samples, others = len(expected[0]), _other_top1(expected, got)
    return Comparison(
        agrees=worst.excess <= 0,
        num_samples=num_samples,
        max_abs_error=max(difference.max_abs for difference in differences),
        max_rel_error=max(difference.max_rel for difference in differences),
        mean_abs_error=sum(difference.sum_abs for difference in differences) / max(1, num_numbers),
        top1_agreement=None if others is None else 1 - len(others) / num_samples,
        worst_sample=worst.sample,
        detail=worst.detail,
        other_top1=others or (),
    )


def largest_number(outputs: Sequence[torch.Tensor]) -> float:
    """The largest magnitude among finite floating point numbers; 0 without any."""
    floats = [output[output.isfinite()] for output in outputs if output.is_floating_point()]
    return max((float(each.abs().max()) for each in floats if each.numel()), default=0.0)


def named_outputs(result: object) -> dict[str, torch.Tensor]:
    """The tensors a model or program returned, in order, under the signature's names.

    Args:
        result: A tensor, a tuple or list of them, or a dict of them. A dict's keys are the names;
            other outputs are `output_0`, `output_1`, ...

    Raises:
        TypeError: It is something else, or empty.
    """
    if isinstance(result, torch.Tensor):
        return {"output_0": result}
    named: dict[str, object] = {}
    if isinstance(result, dict):
        named = {str(name): value for name, value in result.items()}
    elif isinstance(result, (tuple, list)):
        named = {f"output_{index}": value for index, value in enumerate(result)}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if not tensors or len(tensors) < len(named):
        shown = {name: type(value).__name__ for name, value in named.items()}
        raise TypeError(
            f"the model returns {type(result).__name__} {shown or ''}; return a tensor, or a "
            "tuple, list or dict of tensors"
        )
    return tensors


def read_samples(model_dir: Path) -> Samples | None:
    """The samples of an unpacked archive; None when it brings none.

    Raises:
        ArchiveError: The file is damaged, or does not hold what `to_safetensors` writes.
    """
    path = model_dir / SAMPLES_PATH
    if not path.is_file():
        return None
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ArchiveError(
            f"{SAMPLES_PATH} is damaged ({error}); export the model again"
        ) from error
    inputs, outputs = _numbered(tensors, "input"), _numbered(tensors, "output")
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors.values()}
    is_complete = inputs and outputs and len(inputs) + len(outputs) == len(tensors)
    if not is_complete or len(sizes) != 1 or 0 in sizes:
        shown = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise ArchiveError(f"{SAMPLES_PATH} holds {shown}, no samples; export the model again")
    return Samples(inputs=inputs, outputs=outputs, tolerance=_tolerance_of(model_dir))


def _tolerance_of(model_dir: Path) -> Tolerance:
    certificate = read_certificate(model_dir)
    return Tolerance() if certificate is None else Tolerance(**certificate.tolerance)


def _numbered(tensors: Mapping[str, torch.Tensor], kind: str) -> tuple[torch.Tensor, ...]:
    count = sum(name.startswith(f"{kind}_") for name in tensors)
    names = [f"{kind}_{index}" for index in range(count)]
    return tuple(tensors[name] for name in names if name in tensors)


@dataclass(frozen=True, slots=True)
class _Difference:
    """How one output differs; `excess` is how far its worst number is outside the tolerance."""

    excess: float
    max_abs: float
    max_rel: float
    sum_abs: float
    sample: int
    detail: str

    @classmethod
    def of(
        cls, index: int, expected: torch.Tensor, got: torch.Tensor, tolerance: Tolerance
    ) -> _Difference:
        one, other = (tensor.detach().cpu().to(torch.float64) for tensor in (expected, got))
        if one.numel() == 0:
            return cls(-math.inf, 0.0, 0.0, 0.0, 0, "there are no numbers to compare")
        same = (one == other) | (one.isnan() & other.isnan())
        error = torch.where(same, 0.0, (one - other).abs()).nan_to_num(
            nan=math.inf, posinf=math.inf
        )
        allowed = (tolerance.atol + tolerance.rtol * one.abs()).nan_to_num(nan=0.0, posinf=0.0)
        excess = torch.where(same, -allowed, error - allowed)
        # torch has this, too, and imports SymPy for it: 0.6 s and 40 MB
        at = tuple(map(int, np.unravel_index(int(excess.argmax()), excess.shape)))
        # with a share, relative errors tell something of numbers that are larger than that only
        telling = one.abs() > tolerance.atol if tolerance.share else error > tolerance.atol
        relative = torch.where(telling, error / one.abs(), 0.0).nan_to_num(nan=math.inf)
        place = f" at {list(at[1:])}" if at[1:] else ""
        return cls(
            excess=float(excess[at]),
            max_abs=float(error.max()),
            max_rel=float(relative.max()),
            sum_abs=float(error.sum()),
            sample=at[0],
            detail=(
                f"sample {at[0]}, output {index}{place}: expected {float(one[at]):.9g}, "
                f"got {float(other[at]):.9g}"
            ),
        )


def _mismatch(expected: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> str | None:
    if len(expected) != len(got):
        return f"expected {len(expected)} outputs, got {len(got)}"
    for index, (one, other) in enumerate(zip(expected, got, strict=True)):
        if one.shape != other.shape:
            return f"output {index}: expected shape {list(one.shape)}, got {list(other.shape)}"
        if one.dtype != other.dtype:
            return f"output {index}: expected {one.dtype}, got {other.dtype}"
    return None


def _other_top1(
    expected: Sequence[torch.Tensor], got: Sequence[torch.Tensor]
) -> tuple[int, ...] | None:
    """Samples whose largest class is another; None where there are no classes."""
    for one, other in zip(expected, got, strict=True):
        if one.is_floating_point() and one.ndim == 2 and one.shape[1] >= 2:
            differ = one.detach().cpu().argmax(dim=1) != other.detach().cpu().argmax(dim=1)
            return tuple(differ.nonzero().flatten().tolist())
    return None
