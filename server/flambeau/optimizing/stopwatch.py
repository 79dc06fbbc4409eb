"""How long several calls take, measured side by side on a machine that does other things, too.

Calls take turns, so that what slows the machine down for a while slows all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final, TypeVar

Key = TypeVar("Key", bound=Hashable)

_MIN_TURN_S: Final = 0.002  # a shorter turn says more of the clock than of the call
_MAX_REPEATS: Final = 64


def turns_s(
    calls: Mapping[Key, Callable[[], object]],
    *,
    num_rounds: int,
    until: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Seconds per call in each turn of each call, at least one.

    Args:
        calls: What to call; each has been called before, and returns when its work is done.
        num_rounds: Turns of each call, 1 or more.
        until: No round but the first begins after this time of `time.perf_counter`.
        clock: What the seconds are told by; `time.thread_time` counts this thread's work only,
            and so tells the same on a busy machine.
    """
    taken_s: dict[Key, list[float]] = {key: [] for key in calls}
    repeats: dict[Key, int] = {}
    for round_index in range(num_rounds):
        if round_index and time.perf_counter() > until:
            break
        for key, call in calls.items():
            if key not in repeats:
                once_s = _turn_s(call, 1, clock)
                repeats[key] = max(1, min(_MAX_REPEATS, int(_MIN_TURN_S / max(once_s, 1e-9))))
                if repeats[key] == 1:
                    taken_s[key].append(once_s)
                    continue
            taken_s[key].append(_turn_s(call, repeats[key], clock))
    return taken_s


def _turn_s(call: Callable[[], object], num_calls: int, clock: Callable[[], float]) -> float:
    began_at = clock()
    for _ in range(num_calls):
        call()
    return (clock() - began_at) / num_calls
