"""When a worker waits for company, and how much of what waits it takes: plain functions.

Waiting seldom pays. A batch that has begun keeps later requests waiting, but a worker that waits
delays all it could have begun with, and batches grow by themselves while workers are busy. It does
pay where most of a batch's cost does not depend on its size and the next requests come at once: the
clients of one batch all come back within a millisecond of its answers, and the first of them would
have the worker to itself while the others wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from flambeau.batch_company import WINDOWS_S, Company
from flambeau.batch_cost import BatchCost

_WAITED = 0.6  # of a window passes on average until those expected in it have come
_MIN_RETURN = 3.0  # times its own length that a wait must save of the worker's time
_MIN_GAIN = 0.1  # share of what it costs those waiting to be answered that must be gained
_AT_ONCE = 1.3  # those of twice the window, over those of the window, where few come late
_MIN_COST_S = _MIN_RETURN * WINDOWS_S[0]  # cheaper batches cannot save enough


@dataclass(frozen=True, slots=True)
class Hold:
    """A batch that waits.

    Attributes:
        until: When it leaves at the latest.
        size: With how many requests it leaves earlier.
    """

    until: float
    size: int


def may_pay(cost_s: float) -> bool:
    """Whether a wait can be worth it before a batch of this cost."""
    return cost_s >= _MIN_COST_S


def best_hold(
    num_waiting: int,
    *,
    now: float,
    leave_by: float,
    max_batch_size: int,
    cost: BatchCost,
    company: Company,
) -> Hold | None:
    """The wait that gains most for all, None where beginning at once is as good.

    The gain is in seconds, summed over requests: those who come in a window save the batch they
    would have waited for, those who wait already lose the time until they come and what they add to
    the batch. Where nearly all come at once and then nobody (clients who were just answered), all
    will come back, and so gain the worker's time that was saved.

    Args:
        num_waiting: Requests that the last idle worker could begin with, below `max_batch_size`.
        now: The time.
        leave_by: When they must leave.
        max_batch_size: At which a batch leaves.
        cost: What batches cost.
        company: Who comes soon.
    """
    expected = company.expected(num_waiting)
    alone_s = cost.expected_s(num_waiting)
    best: Hold | None = None
    most = _MIN_GAIN * num_waiting * alone_s
    for place, window_s in enumerate(WINDOWS_S):
        num_more = min(round(expected[place]), max_batch_size - num_waiting)
        if now + window_s > leave_by:
            break
        if num_more == 0:
            continue
        later_s, size = cost.expected_s(num_more), num_waiting + num_more
        # where only one size was ever seen, a few batches of another find out
        joint_s = cost.expected_s(size) if cost.num_known > 1 or cost.knows(size) else alone_s
        saved_s = alone_s + later_s - joint_s
        if saved_s < _MIN_RETURN * window_s:
            continue
        wait_s = _WAITED * window_s
        gain = num_more * (saved_s - wait_s) - num_waiting * (wait_s + joint_s - alone_s)
        if place + 1 < len(WINDOWS_S) and expected[place + 1] < _AT_ONCE * expected[place]:
            gain += size * (saved_s - wait_s)
        if gain > most:
            best, most = Hold(now + window_s, size), gain
    return best


def share(num_waiting: int, *, num_free: int, max_batch_size: int, cost: BatchCost) -> int:
    """How many of those waiting one of several idle workers takes.

    Each further batch costs its fixed part once more: there are as many as the cost of the requests
    themselves outweighs it, so that cheap requests leave a worker for those who come next.
    """
    num_batches = 1
    if num_free > 1:
        fixed_s, per_item_s = cost.line()
        own_s = per_item_s * num_waiting
        if own_s > fixed_s:
            num_batches = int(min(num_free, num_waiting, own_s / max(fixed_s, 1e-9)))
    return min(-(-num_waiting // num_batches), max_batch_size)
