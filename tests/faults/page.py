"""From verdicts to lines of a terminal, and to the page docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Machine
from benchmarks.tables import table
from tests.faults.goals import GOALS, Goal
from tests.faults.verdict import Figure, Verdict

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"

HEADS = ("case", "seed", "sent", "R", "E", "C", "lost", "W", "p99 ms", "recover s")

INTRODUCTION = """\
# Reliability

What Flambeau promises when things go wrong, and what was found when they were made to. `make
faults` does all of this to a running server and writes this page anew; `make soak MINUTES=30` mixes
the faults for as long as you like. Short forms of the same cases are among the tests, with
deliberately broken ones that they must find. C11 and C15 to C19 are tests of their own, which `make
faults` runs in their whole size: their figures count what was tried.

Clients ask f(x) = 2x + nonce, each nonce once, and keep a ledger. Every request ends in one class:

| | |
|---|---|
| R | right: 2xx, f of its own nonce, and the version that computed it |
| E | clear error: a documented status, a body that says what, a request id |
| W | wrong: 2xx, but another answer |
| U | unclear: anything else, or nothing by the client's deadline of 10 s |
| C | cut: refused at connect, or broken off by the test itself |

*lost* = sent - R - E - C. After every case the server must be alive, nothing may wait, no process
may be left over, the front must have no more files than before, and `/metrics` must have counted
what the ledger has.

The memory of the front may grow by 1 MiB per 10,000 requests over the last half of 50,000 or more.
`make faults` sends too few to judge that, and only tells the growth; `make soak` judges it.

What a process was asked that is killed cannot be answered by it: those requests are cut, and
clients must ask again.
"""

BROKEN = """\
## Not kept

Each line is a run that found something, or a figure over its bar.
"""


def line_of(verdict: Verdict) -> str:
    """A verdict on one line, its figures and what is broken behind it."""
    name, *numbers = _row(verdict)
    text = f"{name:24}" + "".join(f"{number:>9}" for number in numbers)
    figures = "  ".join(_shown(figure) for figure in verdict.figures)
    return "  ".join((text, figures, *(f"BROKEN: {what}" for what in verdict.broken)))


def heads() -> str:
    """The line above those."""
    return f"{HEADS[0]:24}" + "".join(f"{head:>9}" for head in HEADS[1:])


def render(verdicts: Sequence[Verdict], machine: Machine, *, measured_on: str) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    where = (
        f"Measured on {measured_on}: {machine.num_cpus} cores of {machine.cpu}, "
        f"{machine.memory_gib:g} GiB, {machine.system}; {versions}. Clients and server shared "
        "them.\n"
    )
    goals = table(("promise", "bar", "runs", "found"), [_goal_row(g, verdicts) for g in GOALS])
    cases = table(HEADS, [_row(verdict) for verdict in verdicts])
    figures = table(("case", "seed", "figures"), _figure_rows(verdicts))
    sections = [INTRODUCTION, where, "## Promises\n", goals, "## Runs\n", cases]
    sections += ["## Figures\n", figures]
    if found := _not_kept(verdicts):
        sections += [BROKEN, table(("case", "seed", "found"), found)]
    return "\n".join(sections)


def _row(verdict: Verdict) -> tuple[str, ...]:
    counts = verdict.counts
    return (
        verdict.case,
        f"{verdict.seed}",
        f"{verdict.num_sent:,}",
        *(f"{counts[outcome]:,}" for outcome in ("R", "E", "C")),
        f"{verdict.lost}",
        f"{counts['W']}",
        f"{verdict.p99_ms:.1f}" if verdict.p99_ms else "",
        f"{verdict.recover_s:.2f}" if verdict.recover_s else "",
    )


def _goal_row(goal: Goal, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    shown_by = goal.shown_by(verdicts)
    if goal.cases == ("C",):  # of all runs, only what is lost counts
        bad = [verdict for verdict in shown_by if verdict.lost]
    else:
        bad = [verdict for verdict in shown_by if verdict.missed or not verdict.is_kept]
    missing = ", ".join(case.strip() for case in goal.not_run(verdicts))
    found = f"not shown: {missing} was not run" if missing else "kept"
    if bad:
        found = f"**not in {len(bad)} of {len(shown_by)}**"
    return goal.promise, goal.bar, f"{len(shown_by)}", found


def _figure_rows(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    return [
        (verdict.case, f"{verdict.seed}", ", ".join(_shown(figure) for figure in verdict.figures))
        for verdict in verdicts
        if verdict.figures
    ]


def _not_kept(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    return [
        (verdict.case, f"{verdict.seed}", what.replace("|", "/").replace("\n", " "))
        for verdict in verdicts
        for what in (*verdict.broken, *(_shown(figure) for figure in verdict.missed))
    ]


def _shown(figure: Figure) -> str:
    """`exit s 1.2 (at most 11)`."""
    bar = "" if figure.at_most is None else f" (at most {figure.at_most:g})"
    return f"{figure.name.replace('_', ' ')} {figure.value:.4g}{bar}"
