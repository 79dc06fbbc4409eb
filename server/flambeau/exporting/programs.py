"""The programs of an archive: which are asked for, making them, and proving each.

The first is the one that the manifest names and every server runs. Others lie beside it, listed in
`MAR-INF/programs.json`, and a server of ours takes one of them where it is faster.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flambeau.archive import digest
from flambeau.archive_programs import ArchiveProgram, Needs, programs_json
from flambeau.errors import ExportError
from flambeau.exporting.options import Method, Precision, Target, chosen
from flambeau.exporting.precision import in_precision, tolerance_for
from flambeau.exporting.program import program_format
from flambeau.exporting.proof import Proof, Question, prove
from flambeau.optimizing.machine import needs_of_code

if TYPE_CHECKING:
    from flambeau.exporting.dims import Axes
    from flambeau.exporting.program import ProgramFormat
    from flambeau.parity import Tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One program to make.

    Attributes:
        target: Its kind.
        precision: What it computes with.
        format: How it is made and loaded.
        file_name: In the archive.
        tolerance: How far its outputs may be from the model's.
        is_served: Whether it is the one that the manifest names.
    """

    target: Target
    precision: Precision
    format: ProgramFormat
    file_name: str
    tolerance: Tolerance
    is_served: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Proved:
    """A program that computes what the model computes.

    Attributes:
        plan: What it is.
        sha256: Of its file.
        proof: How far it is from the model.
    """

    plan: Plan
    sha256: str
    proof: Proof


def plans_for(
    targets: Sequence[str],
    precisions: Sequence[str],
    *,
    method: str | None,
    tolerance: Tolerance,
    top1: float | None,
) -> list[Plan]:
    """Every target in every precision; the served one, of the first target, comes first.

    It is in fp32 if that is among the precisions, whatever their order.

    Raises:
        ExportError: A word is none of those there are, or none is given.
    """
    kinds = list(dict.fromkeys(chosen(Target, each) for each in targets))
    bits = list(dict.fromkeys(chosen(Precision, each) for each in precisions))
    if not kinds or not bits:
        raise ExportError("no target or no precision is given; give one of each, or leave it out")
    bits.sort(key=lambda each: each is not Precision.FP32)
    way = None if method is None else chosen(Method, method)
    plans: list[Plan] = []
    for target in kinds:
        takes_none = Target.TORCHSCRIPT in kinds and target is not Target.TORCHSCRIPT
        program = program_format(target, method=None if takes_none else way)
        for precision in bits:
            if precision is Precision.INT8 and target is not Target.TORCHSCRIPT:
                if Target.TORCHSCRIPT in kinds:
                    continue
                raise ExportError(
                    f"target {target.value} has no int8; add target torchscript, which has"
                )
            path = Path(program.file_name)
            beside = f"{path.stem}.{target.value}.{precision.value}{path.suffix}"
            plans.append(
                Plan(
                    target=target,
                    precision=precision,
                    format=program,
                    file_name=beside if plans else program.file_name,
                    tolerance=tolerance_for(precision, tolerance, top1=top1),
                    is_served=not plans,
                )
            )
    return plans


def make(
    plans: Sequence[Plan],
    model: torch.nn.Module,
    examples: Sequence[torch.Tensor],
    directory: Path,
    *,
    axes: Axes,
    calibration: Sequence[torch.Tensor],
) -> dict[str, Path]:
    """Write all programs into a directory; by their names.

    Args:
        plans: What to make.
        model: In evaluation mode.
        examples: Its inputs.
        directory: Where files go.
        axes: The open axes of each input.
        calibration: As in `in_precision`.

    Raises:
        ExportError: The model cannot be expressed as one of them.
    """
    files: dict[str, Path] = {}
    for plan in plans:
        path = directory / plan.file_name
        with _naming(plan):
            made = in_precision(model, plan.precision, calibration=calibration)
            plan.format.save(made, examples, path, axes=axes)
        files[plan.file_name] = path
    return files


def prove_all(
    plans: Sequence[Plan], question: Question, model_dir: Path, *, device: torch.device
) -> list[Proved]:
    """Load every program as a server would, and hold it against the model.

    Args:
        plans: What there is.
        question: What to compare on.
        model_dir: An unpacked archive with the programs.
        device: Where they run.

    Raises:
        ExportError: One of them computes something else.
    """
    proved: list[Proved] = []
    for plan in plans:
        path = model_dir / plan.file_name
        with _naming(plan):
            proof = prove(
                question,
                plan.format.load(path, device=device),
                tolerance=plan.tolerance,
                frozen_batch_hint=plan.format.frozen_batch_hint,
                # an int8 program knows the ranges it was calibrated to, and is made without a trace
                # of branches
                turns_signs=plan.precision is not Precision.INT8,
            )
        proved.append(Proved(plan=plan, sha256=digest(path), proof=proof))
    return proved


def listing(proved: Sequence[Proved], *, device: torch.device) -> bytes | None:
    """`MAR-INF/programs.json`; None where there is one program only."""
    beside = [
        ArchiveProgram(
            file=each.plan.file_name,
            target=each.plan.target.value,
            precision=each.plan.precision.value,
            sha256=each.sha256,
            share=each.plan.tolerance.share,
            needs=_needs(each.plan, device),
        )
        for each in proved
        if not each.plan.is_served
    ]
    return programs_json(beside) if beside else None


def _needs(plan: Plan, device: torch.device) -> Needs:
    if plan.target is Target.AOT_INDUCTOR:
        return needs_of_code(device)
    if plan.precision is Precision.INT8:
        return Needs(device="cpu")
    if plan.target is Target.TORCH_EXPORT:
        return Needs(torch=f">={torch.__version__.partition('+')[0]}")
    return Needs()


@contextmanager
def _naming(plan: Plan) -> Generator[None]:
    """Say which of several programs it is."""
    try:
        yield
    except ExportError as error:
        if plan.is_served and plan.precision is Precision.FP32:
            raise
        raise ExportError(f"{plan.target.value} in {plan.precision.value}: {error}") from error
