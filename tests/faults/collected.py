"""Cases told elsewhere, as tests of their own: their figures are read from pytest's report.

A test becomes a case by what it records:

    record_property("case", "C15 registry")
    record_property("seed", 1)
    record_property("sent", 480)            # with R, E, W, U, C where it has a ledger
    record_property("kills", 200)           # any other number is a figure

and is named in `NODES`. It is kept if the test passes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.faults.ledger import Outcome
from tests.faults.verdict import Figure, Verdict

# pytest's node ids, e.g. `tests/server/test_state.py::test_name`
NODES: tuple[str, ...] = ()

_OF_A_VERDICT = {"case", "seed", "lost", "p99_ms", "recover_s", *(o.value for o in Outcome)}


def collect(nodes: Sequence[str]) -> list[Verdict]:
    """Run these tests; returns a verdict for each that records itself as a case."""
    if not nodes:
        return []
    with tempfile.TemporaryDirectory(prefix="flambeau-faults-") as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *nodes]
        subprocess.run(command, check=False)
        return list(verdicts_of(report))


def verdicts_of(report: Path) -> list[Verdict]:
    """The verdicts in one of pytest's reports."""
    # written by our own pytest just now
    cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314
    return [found for each in cases if (found := _verdict_of(each)) is not None]


def _verdict_of(element: ET.Element) -> Verdict | None:
    recorded = {each.get("name", ""): each.get("value", "") for each in element.iter("property")}
    if "case" not in recorded:
        return None
    failures = [*element.iter("failure"), *element.iter("error")]
    counts = {outcome.value: int(recorded.get(outcome.value, 0)) for outcome in Outcome}
    return Verdict(
        case=recorded["case"],
        seed=int(recorded.get("seed", 1)),
        counts=counts,
        lost=int(recorded.get("lost", counts["W"] + counts["U"])),
        p99_ms=float(recorded.get("p99_ms", 0)),
        recover_s=float(recorded.get("recover_s", 0)),
        figures=_figures(recorded),
        broken=tuple(failure.get("message", "failed") for failure in failures),
    )


def _figures(recorded: Mapping[str, str]) -> tuple[Figure, ...]:
    others = {name: text for name, text in recorded.items() if name not in _OF_A_VERDICT}
    return tuple(Figure(name=name, value=float(text)) for name, text in others.items())
