"""Which configuration wins: the best few are measured again, in turn, and medians compared.

Other programs, clocks and temperatures change while a search runs. Taking turns lets such changes
meet all of the best alike, and the median ignores the round that something else disturbed.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flambeau.tuning.trial import Trial

_EQUAL_SHARE: Final = 0.97  # of the best: less than this apart is noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Finalist:
    """A configuration and all that was found about it.

    Attributes:
        trial: From the search.
        rounds: From measuring it again, in order; empty if there was no time for it.
    """

    trial: Trial
    rounds: tuple[Trial, ...] = ()

    @property
    def requests_per_s(self) -> float:
        """The median of the rounds; without any, what the search found."""
        return median(each.requests_per_s for each in self.rounds or (self.trial,))

    @property
    def latency_s(self) -> float:
        """The median of the rounds' latencies, each at its own rate."""
        return median(each.latency_s for each in self.rounds or (self.trial,))


def finalists_of(trials: Iterable[Trial], *, count: int) -> list[Trial]:
    """The best of a search, best first; those that met the objective only."""
    met = [trial for trial in trials if trial.requests_per_s > 0]
    return sorted(met, key=lambda t: (-t.requests_per_s, t.candidate.size))[:count]


def run_off(
    trials: Sequence[Trial],
    measure_again: Callable[[Trial], Trial],
    *,
    num_rounds: int,
    is_over: Callable[[], bool],
) -> list[Finalist]:
    """Measure each again, once per round.

    A round that time cuts off is dropped, so that all finalists have equally many.
    """
    rounds: list[list[Trial]] = []
    for _ in range(num_rounds):
        found: list[Trial] = []
        for trial in trials:
            if is_over():
                break
            found.append(measure_again(trial))
        if len(found) < len(trials):
            break
        rounds.append(found)
    return [
        Finalist(trial=trial, rounds=tuple(found[place] for found in rounds))
        for place, trial in enumerate(trials)
    ]


def best_of(finalists: Sequence[Finalist]) -> Finalist | None:
    """The winner; of those that are equally fast, the one with the smaller configuration."""
    if not finalists:
        return None
    most = max(finalist.requests_per_s for finalist in finalists)
    equal = [each for each in finalists if each.requests_per_s >= most * _EQUAL_SHARE]
    return min(equal, key=lambda each: each.trial.candidate.size)
