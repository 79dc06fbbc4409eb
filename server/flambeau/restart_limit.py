"""How often a version's workers may be started again: a pure count over the last minute.

A worker that is lost with a request while others are answered is no reason to give a model up,
however often that happens: the request is. One that ends by itself, or before anything was answered
since the last one ended, will most likely do so again.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_RESTARTS: Final = 5  # in `WINDOW_S`
WINDOW_S: Final = 60.0

_MAX_PAUSE_S: Final = 60.0
_ENDS_PER_STEP: Final = 10  # in the window, of workers that did answer, for pauses to double


class RestartLimit:
    """Shared by the workers of one version; times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        # in the last minute, oldest first
        self._loops: deque[float] = deque()
        self._ends: deque[float] = deque()
        # what had been answered when the last worker ended
        self._num_answered = 0

    def ended(self, *, now: float, num_answered: int, by_itself: bool) -> bool:
        """A worker has ended; whether that looks like a loop of crashes.

        Args:
            now: The time.
            num_answered: Batches of the version that were answered so far.
            by_itself: Whether nothing was asked of it, and nobody killed it.
        """
        self._ends.append(now)
        is_loop = by_itself or num_answered == self._num_answered
        self._num_answered = num_answered
        return is_loop

    def restarted(self, *, now: float) -> None:
        """One that looks like a loop is started again."""
        self._loops.append(now)

    def wait_s(self, *, now: float) -> float:
        """Seconds until one more such restart is within the limit; 0 when it is."""
        _forget(self._loops, now=now)
        if len(self._loops) < MAX_RESTARTS:
            return 0.0
        return self._loops[-MAX_RESTARTS] + WINDOW_S - now

    def pause_s(self, *, now: float) -> float:
        """Seconds before a worker that did answer is replaced: few, unless that happens often."""
        _forget(self._ends, now=now)
        return pause_s(1 + len(self._ends) // _ENDS_PER_STEP)

    def clear(self) -> None:
        """Somebody has looked after it: begin anew."""
        self._loops.clear()


def pause_s(num_failures: int) -> float:
    """Seconds before the next start: 0.1, 0.2, 0.4 ... up to a minute."""
    return float(min(_MAX_PAUSE_S, 0.1 * 2 ** min(num_failures - 1, 16)))


def _forget(times: deque[float], *, now: float) -> None:
    while times and times[0] <= now - WINDOW_S:
        times.popleft()
