"""Cases told elsewhere, as tests of their own: their figures are read from pytest's report.

A test becomes a case, or a part of one, by what it records:

    record_property("case", "C15 state file")
    record_property("E", 480)           # requests by class, R, E, W, U and C, where it sends any
    record_property("kills", 200)       # any other number is a figure
    record_property("max_mib", 2.5)     # of the parts' figures the largest, not the sum

and is named in `NODES`. A case is kept if all of its tests pass. `WHOLE` makes some of them larger
than they are among the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree as ET

from tests.faults.ledger import Outcome
from tests.faults.verdict import Figure, Verdict

RecordProperty: TypeAlias = Callable[[str, object], None]  # pytest's fixture of that name

WHOLE = {"NUM_KILLS": "200", "NUM_REPEATS": "1000", "NUM_TRAINING_KILLS": "50"}
_TIMEOUT_S = 600  # for each of them

# pytest's node ids
NODES: tuple[str, ...] = (
    "tests/integration/test_api_documents.py",
    "tests/integration/test_hostile_input.py",
    "tests/server/test_state.py",
    "tests/server/test_state_recovery.py",
    "tests/training/test_checkpoint.py",
    "tests/training/test_kills.py",
    "tests/training/test_strategies.py::test_a_sharded_run_that_is_resumed_equals_one_that_was_not",
    "tests/training/test_strategies.py::test_ranks_that_die_are_started_again_and_end_as_if_they_had_not",
    "tests/training/test_train.py::test_a_resumed_run_equals_one_that_was_not_interrupted",
    "tests/training/test_train.py::test_ctrl_c_exits_130_with_the_last_checkpoint_usable",
    "tests/server/test_hostile_archives.py",
    "tests/server/test_archive_signing.py::test_no_byte_of_a_signed_archive_can_be_changed",
)

_NO_FIGURES = {"case", *(outcome.value for outcome in Outcome)}


def collect(nodes: Sequence[str]) -> list[Verdict]:
    """Run these tests; returns a verdict for each that records itself as a case."""
    if not nodes:
        return []
    with tempfile.TemporaryDirectory(prefix="flambeau-faults-") as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--timeout={_TIMEOUT_S}"]
        subprocess.run(
            [*command, f"--junitxml={report}", *nodes], check=False, env=os.environ | WHOLE
        )
        return verdicts_of(report)


def verdicts_of(report: Path) -> list[Verdict]:
    """The verdicts in one of pytest's reports, one for each case.

    A test that fails before it has said what it is part of is a case of its own.
    """
    parts: defaultdict[str, list[ET.Element]] = defaultdict(list)
    # written by our own pytest just now
    for element in ET.parse(report).getroot().iter("testcase"):  # noqa: S314
        case = _recorded(element).get("case")
        if case is None and _failures(element):
            case = element.get("name", "a test")
        if case is not None:
            parts[case].append(element)
    return [_verdict_of(case, elements) for case, elements in parts.items()]


def _verdict_of(case: str, elements: Sequence[ET.Element]) -> Verdict:
    recorded = [_recorded(each) for each in elements]
    counts = {
        outcome.value: sum(int(each.get(outcome.value, 0)) for each in recorded)
        for outcome in Outcome
    }
    return Verdict(
        case=case,
        seed=1,
        counts=counts,
        lost=counts["W"] + counts["U"],
        p99_ms=0.0,
        recover_s=0.0,
        figures=_figures(recorded),
        broken=tuple(message for each in elements for message in _failures(each)),
    )


def _recorded(element: ET.Element) -> dict[str, str]:
    return {each.get("name", ""): each.get("value", "") for each in element.iter("property")}


def _failures(element: ET.Element) -> list[str]:
    found = (*element.iter("failure"), *element.iter("error"))
    return [each.get("message", "failed") for each in found]


def _figures(recorded: Sequence[Mapping[str, str]]) -> tuple[Figure, ...]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for each in recorded:
        for name in each.keys() - _NO_FIGURES:
            values[name].append(float(each[name]))
    return tuple(
        Figure(name=name, value=(max if name.startswith("max_") else sum)(found))
        for name, found in sorted(values.items())
    )
