"""How fast one thread runs a model in each format, beside eager PyTorch in the same seconds.

    python -m benchmarks.formats            # six minutes; writes the table of docs/export.md
    python -m benchmarks.formats --quick    # one short round of LeNet; prints only

Every program is made and loaded again as an export does it. Forms take turns, so that a slow
second of the machine hits all of them, and each round compares with its own eager figure.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks import machine
from benchmarks.figures import Machine
from benchmarks.tables import table
from benchmarks.workloads import lenet, text
from flambeau import torchscript
from flambeau.errors import FlambeauError
from flambeau.exporting.options import Precision, Target
from flambeau.exporting.precision import in_precision
from flambeau.exporting.program import program_format
from flambeau.optimizing.machine import computes_bfloat16
from training.models import resnet18

Call: TypeAlias = Callable[..., Any]
Inputs: TypeAlias = Callable[[int], tuple[torch.Tensor, ...]]
"""What a model takes for a batch of so many samples."""

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"
HEADING = "## Formats and speed\n"
INTRODUCTION = """
`python -m benchmarks.formats` measures this table: one thread, random weights, medians of rounds in
which the forms take turns. Times are shares of eager PyTorch's, so less is faster; the error is the
largest difference from its outputs, by the largest of these. Nothing is refused here; an export
refuses int8 beyond 10 % of the largest output.

"""
NAMES = {
    (Target.TORCHSCRIPT, Precision.FP32): "TorchScript",
    (Target.TORCH_EXPORT, Precision.FP32): "torch.export",
    (Target.AOT_INDUCTOR, Precision.FP32): "AOTInductor",
    (Target.ONNX, Precision.FP32): "ONNX Runtime",
    (Target.TORCHSCRIPT, Precision.BF16): "TorchScript, bf16",
    (Target.AOT_INDUCTOR, Precision.BF16): "AOTInductor, bf16",
    (Target.TORCHSCRIPT, Precision.INT8): "TorchScript, int8",
}
BATCH_SIZES = (1, 8, 32)
NUM_TOKENS = 64
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to measure."""

    name: str
    model: torch.nn.Module
    inputs: Inputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A model in one format.

    Attributes:
        name: What people read.
        call: Takes a batch, gives the outputs.
        num_bytes: Of its file; None for what is made when a program is loaded.
    """

    name: str
    call: Call
    num_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What was found of one form.

    Attributes:
        form: Its name.
        num_bytes: Of its file, if it has one.
        shares: By batch size, the median over the rounds of its time for a call by eager's.
        max_error: The largest difference from eager's outputs, by the largest of these.
        top1: The share of samples whose largest output is the same.
    """

    form: str
    num_bytes: int | None
    shares: dict[int, float]
    max_error: float
    top1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What was found of one model.

    Attributes:
        subject: Its name.
        eager_ms: By batch size, the median time of a call.
        figures: Of each form.
        missing: Forms that cannot be made, and why.
    """

    subject: str
    eager_ms: dict[int, float]
    figures: list[Figures]
    missing: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much to measure."""

    num_rounds: int = 5
    seconds: float = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    quick: bool = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    plan = Plan(num_rounds=1, seconds=0.05) if quick else Plan()
    found = [measure(subject, plan) for subject in subjects()[: 1 if quick else None]]
    section = render(found, machine.describe())
    print(section)
    if not quick:
        before = PAGE.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
        PAGE.write_text(f"{before}\n\n{section}", encoding="utf-8")
    return 0


def subjects() -> list[Subject]:
    """The models, with weights by seed."""
    torch.manual_seed(0)
    return [
        Subject(name="LeNet-5", model=lenet.make_lenet(), inputs=lambda n: (lenet.images(n),)),
        Subject(
            name="ResNet-18, 224 x 224",
            model=resnet18(num_classes=1000).eval(),
            inputs=lambda n: (torch.randn(n, 3, 224, 224, generator=_generator(n)),),
        ),
        Subject(
            name=f"transformer, {NUM_TOKENS} tokens",
            model=text.make_model(),
            inputs=lambda n: (
                torch.randint(2, text.NUM_TOKENS, (n, NUM_TOKENS), generator=_generator(n)),
                torch.ones(n, NUM_TOKENS, dtype=torch.bool),
            ),
        ),
    ]


def measure(subject: Subject, plan: Plan) -> Findings:
    """Make every form there is, then let them take turns."""
    with tempfile.TemporaryDirectory(prefix="flambeau-formats-") as name, torch.inference_mode():
        forms, missing = forms_of(subject, Path(name))
        times_ms = {size: _times_ms(forms, subject.inputs(size), plan) for size in BATCH_SIZES}
        figures = [_figures(form, place, subject, times_ms) for place, form in enumerate(forms)]
    eager_ms = {size: statistics.median(times[0]) for size, times in times_ms.items()}
    return Findings(subject=subject.name, eager_ms=eager_ms, figures=figures, missing=missing)


def forms_of(subject: Subject, directory: Path) -> tuple[list[Form], dict[str, str]]:
    """Eager first; then those that can be made, and for the others the reason."""
    forms = [Form(name="eager", call=subject.model, num_bytes=None)]
    missing: dict[str, str] = {}
    for (target, precision), name in NAMES.items():
        if precision is Precision.BF16 and not computes_bfloat16(CPU):
            missing[name] = "this processor has no instructions for bfloat16"
            continue
        _say(f"{subject.name}: {name}")
        form = program_format(target, method=None)
        path = directory / f"{target.value}-{precision.value}-{form.file_name}"
        try:
            with torch.inference_mode(mode=False):
                model = in_precision(subject.model, precision, calibration=subject.inputs(16))
                form.save(model, subject.inputs(2), path)
            call = form.load(path, device=CPU)
        except FlambeauError as error:
            missing[name] = str(error)
            continue
        forms.append(Form(name=name, call=call, num_bytes=path.stat().st_size))
        if target is Target.TORCHSCRIPT:  # what a server makes of it
            frozen = torchscript.fused(torchscript.frozen(torchscript.load(path, device=CPU)))
            forms.append(Form(name=f"{name}, frozen and fused", call=frozen, num_bytes=None))
    return forms, missing


def _times_ms(
    forms: Sequence[Form], inputs: tuple[torch.Tensor, ...], plan: Plan
) -> list[list[float]]:
    """For each form, the median time of a call in each round."""
    for form in forms:
        for _ in range(3):  # TorchScript looks at the first calls, and optimises in the next
            form.call(*inputs)
    return [
        list(rounds)
        for rounds in zip(
            *(
                [_call_ms(form.call, inputs, plan) for form in forms]
                for _ in range(plan.num_rounds)
            ),
            strict=True,
        )
    ]


def _call_ms(call: Call, inputs: tuple[torch.Tensor, ...], plan: Plan) -> float:
    durations_s: list[float] = []
    started_at = now = time.perf_counter()
    while now < started_at + plan.seconds:
        call(*inputs)
        before, now = now, time.perf_counter()
        durations_s.append(now - before)
    return statistics.median(durations_s) * 1000


def _figures(
    form: Form, place: int, subject: Subject, times_ms: dict[int, list[list[float]]]
) -> Figures:
    inputs = subject.inputs(max(BATCH_SIZES))
    expected, found = (_first(call(*inputs)) for call in (subject.model, form.call))
    return Figures(
        form=form.name,
        num_bytes=form.num_bytes,
        shares={
            size: statistics.median(
                own / eager for own, eager in zip(times[place], times[0], strict=True)
            )
            for size, times in times_ms.items()
        },
        max_error=float((found - expected).abs().max() / expected.abs().max()),
        top1=float((found.argmax(1) == expected.argmax(1)).double().mean()),
    )


def _first(outputs: Any) -> torch.Tensor:  # noqa: ANN401  # a tensor, or several
    tensor = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def render(findings: Sequence[Findings], where: Machine) -> str:
    """The section of the page."""
    parts = [
        HEADING,
        INTRODUCTION,
        f"{where.cpu}, {where.num_cpus} cores; PyTorch {where.versions['torch']}.\n",
    ]
    for each in findings:
        eager = ", ".join(f"{ms:.2f} ms for {size}" for size, ms in each.eager_ms.items())
        heads = [each.subject, *(f"batch {size}" for size in BATCH_SIZES), "MB", "error", "top-1"]
        parts += [
            f"\n### {each.subject}\n\nEager: {eager}.\n\n",
            table(heads, [_row(figures) for figures in each.figures]),
            *(f"\n{name}: {reason}\n" for name, reason in each.missing.items()),
        ]
    return "".join(parts)


def _row(figures: Figures) -> list[str]:
    size = "" if figures.num_bytes is None else f"{figures.num_bytes / 1e6:.1f}"
    shares = [f"{figures.shares[size]:.2f}" for size in BATCH_SIZES]
    return [figures.form, *shares, size, f"{figures.max_error:.0e}", f"{figures.top1:.0%}"]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
