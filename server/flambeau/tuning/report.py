"""What a person sees of tuning: one line per configuration, the frontier, and the winner.

On a terminal a line at the bottom says what is being tried; elsewhere there are plain lines only.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console

from flambeau.tuning.frontier import Point, pareto
from flambeau.tuning.slo import shown_time

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from flambeau.tuning.candidate import Candidate
    from flambeau.tuning.choice import Finalist
    from flambeau.tuning.slo import Slo
    from flambeau.tuning.trial import Trial

_MAX_POINTS: Final = 12
_SETTINGS: Final = "workers threads batch   delay optimize"
_COLUMNS: Final = f"{_SETTINGS}      req/s        p{{percentile}}    memory"


class Report:
    """Prints as it goes."""

    def __init__(self, slo: Slo) -> None:
        # for the life of the command
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._slo = slo
        self._best = 0.0

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text)

    @contextmanager
    def doing(self, text: str) -> Generator[None]:
        """Say on a terminal what is being done inside the block."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(text):
            yield

    def header(self) -> None:
        """The names of the columns."""
        self.say("")
        self.say(_COLUMNS.format(percentile=self._slo.highest.percentile))

    def trial(self, trial: Trial, *, remark: str = "") -> None:
        """One configuration and what was found about it."""
        if trial.failure:
            remark = f"failed: {_one_line(trial.failure)}"
        elif trial.is_pruned:
            remark = "cannot be the best"
        elif trial.requests_per_s == 0:
            remark = remark or "misses the objective"
        elif trial.requests_per_s > self._best:
            self._best = trial.requests_per_s
            remark = remark or "best so far"
        figures = _figures(trial.requests_per_s, trial.latency_s)
        memory = f"{trial.memory_bytes / 1e6:6.0f} MB" if trial.memory_bytes else " " * 9
        self.say(f"{_settings(trial.candidate)} {figures} {memory}  {remark}".rstrip())

    def frontier(self, trials: Iterable[Trial]) -> None:
        """The loads that no configuration served both faster and with more requests."""
        front = _thinned(pareto(point for trial in trials for point in trial.points))
        if not front:
            return
        self.say("")
        self.say("frontier: what no other measurement beat in both")
        self.header()
        for point in front:
            meets = point.latency_s <= self._slo.highest.limit_s
            figures = _figures(point.requests_per_s, point.latency_s)
            remark = "" if meets else f"over {shown_time(self._slo.highest.limit_s)}"
            self.say(f"{_settings(point.candidate)} {figures}            {remark}".rstrip())

    def finalists(self, finalists: Sequence[Finalist]) -> None:
        """The best few, as they did when they were measured again in turn."""
        if not any(each.rounds for each in finalists):
            return
        self.say("")
        num_rounds = len(finalists[0].rounds)
        how = f"medians of {num_rounds} rounds in turn" if num_rounds > 1 else "in turn"
        self.say(f"the best again, {how}")
        self.header()
        for each in finalists:
            rounds = ", ".join(f"{trial.requests_per_s:,.0f}" for trial in each.rounds)
            figures = _figures(each.requests_per_s, each.latency_s)
            self.say(f"{_settings(each.trial.candidate)} {figures}            {rounds}")


def _settings(candidate: Candidate) -> str:
    threads = candidate.threads or "auto"
    return (
        f"{candidate.workers:7} {threads:>7} {candidate.batch_size:5} "
        f"{candidate.max_delay_ms:4} ms {candidate.level.value:8}"
    )


def _figures(requests_per_s: float, latency_s: float) -> str:
    rate = f"{requests_per_s:10,.1f}" if requests_per_s < 100 else f"{requests_per_s:10,.0f}"
    latency = shown_time(latency_s) if latency_s < float("inf") else "-"
    return f"{rate} {latency:>10}" if requests_per_s else f"{'-':>10} {'-':>10}"


def _thinned(front: Sequence[Point]) -> list[Point]:
    """Not more than fit on a screen: the first, the last, and some between."""
    if len(front) <= _MAX_POINTS:
        return list(front)
    step = (len(front) - 1) / (_MAX_POINTS - 1)
    return [front[round(place * step)] for place in range(_MAX_POINTS)]


def _one_line(text: str) -> str:
    """Text that came from a model's code must not drive the reader's terminal."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "?" for char in line)[:300]
