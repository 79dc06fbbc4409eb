"""The highest rate that meets an objective, found in few measurements; no clock, no I/O.

The highest rate met and the lowest one missed close in on each other. One unlucky measurement may
hide what lies above it, which is why the best configurations are searched several times over.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class RateSearch:
    """Ask for `next_rate`, measure, `record`; until `next_rate` is None.

    Attributes:
        first: The rate to begin with, requests per second.
        ceiling: Not more than this can be answered.
        precision: How close two rates are that count as one; 0.08 is 8 %.
        max_tries: Measurements at most.
        give_up_below: Ends as soon as the answer is known to be less.
        met: The highest rate that met the objective; 0 when none has.
        missed: The lowest rate above `met` that did not.
    """

    first: float
    ceiling: float
    precision: float = 0.08
    max_tries: int = 6
    give_up_below: float = 0.0
    met: float = 0.0
    missed: float = field(init=False)
    _num_tries: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.missed = self.ceiling * (1 + self.precision)

    @property
    def is_hopeless(self) -> bool:
        """Whether the answer is known to be below `give_up_below`."""
        return self.missed < self.give_up_below

    def next_rate(self) -> float | None:
        """The rate to measure now; None when the answer is `met`."""
        if self._num_tries == self.max_tries or self.is_hopeless:
            return None
        if self._num_tries == 0:
            return min(self.first, self.ceiling)
        if self.met == 0:
            return self.missed / 2
        if self.missed <= self.met * (1 + self.precision):
            return None
        return (self.met + self.missed) / 2

    def record(self, rate: float, *, is_met: bool) -> None:
        """What came of measuring `rate`."""
        self._num_tries += 1
        if is_met:
            self.met = max(self.met, rate)
            self.missed = max(self.missed, self.met)
        else:
            self.missed = min(self.missed, rate)
