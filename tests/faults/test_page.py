"""What is written down: nothing that was found may be missing from it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import Machine
from tests.faults.collected import verdicts_of
from tests.faults.page import line_of, render
from tests.faults.verdict import Figure, Verdict

MACHINE = Machine(cpu="a CPU", num_cpus=2, memory_gib=8.0, system="Linux", versions={})
RIGHT = {"R": 100, "E": 0, "W": 0, "U": 0, "C": 0}


def verdict(
    case: str, *, lost: int = 0, broken: tuple[str, ...] = (), exit_s: float = 1.0
) -> Verdict:
    return Verdict(
        case=case,
        seed=1,
        counts=RIGHT | {"U": lost},
        lost=lost,
        p99_ms=1.0,
        recover_s=0.0,
        figures=(Figure(name="exit_s", value=exit_s, at_most=2.0),),
        broken=broken,
    )


def test_a_page_of_promises_that_were_kept_says_so() -> None:
    text = render([verdict("C5 nothing")], MACHINE, measured_on="2027-01-01")
    assert "| SIGTERM drains |" in text
    assert "| 1 | kept |" in text
    assert "Not kept" not in text
    assert "not shown: C6 was not run" in text


def test_a_promise_that_needs_two_cases_is_not_kept_by_one() -> None:
    text = render([verdict("C1 baseline")], MACHINE, measured_on="2027-01-01")
    assert "| 1 | not shown: C20 was not run |" in text


def test_a_page_names_what_was_broken_missed_and_lost() -> None:
    found = [
        verdict("C5 nothing", broken=("exit code 1",)),
        verdict("C5 swapping", exit_s=3.0),
        verdict("C6 swaps", lost=2),
    ]
    text = render(found, MACHINE, measured_on="2027-01-01")
    assert "**not in 2 of 2**" in text  # of C5
    assert "**not in 1 of 3**" in text  # lost ones
    assert "| C5 nothing | 1 | exit code 1 |" in text
    assert "| C5 swapping | 1 | exit s 3 (at most 2) |" in text
    assert "BROKEN: exit code 1" in line_of(found[0])


REPORT = """\
<testsuites><testsuite>
  <testcase name="plain"/>
  <testcase name="good"><properties>
    <property name="case" value="C15 state file"/><property name="R" value="480"/>
    <property name="kills" value="200"/><property name="max_mib" value="3"/>
  </properties></testcase>
  <testcase name="another part"><properties>
    <property name="case" value="C15 state file"/><property name="E" value="20"/>
    <property name="kills" value="80"/><property name="max_mib" value="2"/>
  </properties></testcase>
  <testcase name="bad"><properties>
    <property name="case" value="C16 checkpoint"/><property name="W" value="1"/>
  </properties><failure message="not loadable"/></testcase>
  <testcase name="broken"><error message="no server"/></testcase>
</testsuite></testsuites>
"""


def test_tests_that_record_themselves_as_cases_are_collected(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    good, bad, broken = verdicts_of(path)
    assert (good.case, good.num_sent, good.is_kept) == ("C15 state file", 500, True)
    assert good.figures == (Figure(name="kills", value=280.0), Figure(name="max_mib", value=3.0))
    assert (bad.lost, bad.broken) == (1, ("not loadable",))
    assert (broken.case, broken.broken) == ("broken", ("no server",))
