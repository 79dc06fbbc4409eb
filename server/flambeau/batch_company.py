"""How many requests come within short times of a moment at which a worker could begin.

That is all a worker needs to know of the arrivals to weigh waiting. It is counted whether it waits
or not, so nothing need be tried out: whoever comes in the time of one batch comes regardless of
whether it has begun, as its own answers are not out yet. A client that sends its next request after
the answer to the last is therefore never waited for in vain.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

WINDOWS_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)  # timers count milliseconds
_STEP = 1 / 16  # how far one moment moves the mean of its kind


class Company:
    """Means over past moments, apart for those with 1, 2-3, 4-7, 8-15 ... requests waiting.

    Attributes:
        watched_until: Arrivals up to then are to be told by `came`.
    """

    __slots__ = ("_arrivals", "_began_at", "_means", "_row", "watched_until")

    def __init__(self, *, max_batch_size: int) -> None:
        self.watched_until = 0.0
        self._means = [[0.0] * len(WINDOWS_S) for _ in range(max_batch_size.bit_length() + 1)]
        # of the moment being watched
        self._began_at = 0.0
        self._row = self._means[0]
        self._arrivals: list[float] = []

    def expected(self, num_waiting: int) -> Sequence[float]:
        """How many more come within each of `WINDOWS_S` of a moment with so many waiting."""
        return self._means[num_waiting.bit_length()]

    def watch(self, num_waiting: int, *, now: float, until: float) -> None:
        """A worker could begin with what waits: count who comes from now on."""
        self.settle(now=now)
        self._began_at, self.watched_until = now, until
        self._row = self._means[num_waiting.bit_length()]
        self._arrivals.clear()

    def came(self, now: float) -> None:
        """One more request, at most at `watched_until`."""
        self._arrivals.append(now)

    def settle(self, *, now: float) -> None:
        """Learn from the moment that was watched, as far as it has passed."""
        seen_s = min(now, self.watched_until) - self._began_at
        for place, window_s in enumerate(WINDOWS_S):
            if window_s > seen_s:
                break
            num_came = bisect_right(self._arrivals, self._began_at + window_s)
            self._row[place] += (num_came - self._row[place]) * _STEP
        self._began_at = self.watched_until = now
