"""What is promised, and which cases show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.verdict import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A promise.

    Attributes:
        promise: In words.
        bar: When it is kept.
        cases: What the names of the cases that show it begin with.
    """

    promise: str
    bar: str
    cases: tuple[str, ...]

    def shown_by(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The runs that show it, or do not."""
        return [verdict for verdict in verdicts if verdict.case.startswith(self.cases)]

    def not_run(self, verdicts: Sequence[Verdict]) -> list[str]:
        """The cases that it needs and that nobody has run."""
        names = [verdict.case for verdict in verdicts]
        return [each for each in self.cases if not any(name.startswith(each) for name in names)]


GOALS = (
    Goal(
        promise="No request is lost or answered wrongly under any single fault",
        bar="lost 0, wrong 0",
        cases=("C",),
    ),
    Goal(
        promise="A swap of versions is invisible",
        bar="all right, none by a version that is not live",
        cases=("C6",),
    ),
    Goal(
        promise="A bad new version never displaces the old one",
        bar="all right; the reason within `startup_timeout` + 2 s",
        cases=("C7",),
    ),
    Goal(
        promise="SIGTERM drains",
        bar="all accepted are right, later ones refused or told; exit 0 within the grace + 1 s",
        cases=("C5",),
    ),
    Goal(
        promise="A killed front comes back with its models",
        bar="only open requests are cut; ready within 5 s; old workers gone within 2 s",
        cases=("C3",),
    ),
    Goal(
        promise="A worker's death costs its own batch at most, with retries nothing",
        bar="at most 8 errors per kill, or 0; replaced within 3 s (95 %)",
        cases=("C2",),
    ),
    Goal(
        promise="Poison does not hurt its neighbours",
        bar="all of them right; at most 7 calls where it raises, 9 where it crashes; at most 2 "
        "restarts, none when it comes again",
        cases=("C4",),
    ),
    Goal(
        promise="A stuck worker is replaced, and costs what it is stuck on",
        bar="all others right",
        cases=("C14",),
    ),
    Goal(
        promise="Overload is told at once",
        bar="503 with Retry-After, 99 % within 50 ms; accepted ones within their deadline; no more "
        "wait than configured",
        cases=("C9",),
    ),
    Goal(
        promise="Slow clients do not starve good ones, and those that leave cost nothing twice",
        bar="p99 at most twice that before; who owes a head is out within 11 s",
        cases=("C10",),
    ),
    Goal(
        promise="A bad network costs the requests it breaks off, no others",
        bar="all others right",
        cases=("C13",),
    ),
    Goal(
        promise="A model's flood or crash loop is its own: another's clients hardly notice",
        bar="all others right; their p99 at most 1.5 times that without; at most 5 restarts, then "
        "the model is given up",
        cases=("C21",),
    ),
    Goal(
        promise="Hostile requests are refused",
        bar="the right 4xx each, no 5xx, no restart; memory at most 8 MiB per 1,000 repeats",
        cases=("C11",),
    ),
    Goal(
        promise="What was acknowledged is remembered",
        bar="after every failed step and every kill; a damaged file is known for it",
        cases=("C15", "C17"),
    ),
    Goal(
        promise="A training run that is cut off can go on",
        bar="a damaged newest checkpoint gives way to the one before; the end is the same, bit for "
        "bit",
        cases=("C16",),
    ),
    Goal(
        promise="Hostile archives and changed ones are refused",
        bar="all; nothing outside the staging directory; each of 500 changed bytes",
        cases=("C18", "C19"),
    ),
    Goal(
        promise="Nothing is left over",
        bar="files, threads and processes as before; memory is for `make soak` to judge",
        cases=("C1 ", "C20"),
    ),
)
