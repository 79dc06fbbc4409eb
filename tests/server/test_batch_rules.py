from __future__ import annotations

import math

import pytest

from flambeau.batch_company import Company
from flambeau.batch_cost import BatchCost
from flambeau.batch_rules import Hold, best_hold, may_pay, share


def cost(*, fixed_s: float, per_item_s: float) -> BatchCost:
    learned = BatchCost(max_batch_size=16)
    for _ in range(20):
        for size in range(1, 17):
            learned.observe(size, fixed_s + per_item_s * size)
    return learned


def company(waiting: int, *arrivals_s: float) -> Company:
    """What is expected after many moments like this."""
    seen = Company(max_batch_size=16)
    for _ in range(100):
        seen.watch(waiting, now=0.0, until=0.05)
        for arrival_s in arrivals_s:
            seen.came(arrival_s)
        seen.settle(now=1.0)
    return seen


FIXED = cost(fixed_s=0.01, per_item_s=0.0001)
PER_ITEM = cost(fixed_s=0.001, per_item_s=0.01)
SOON = [0.0002 * each for each in range(1, 8)]  # seven within 1.4 ms


def hold(
    waiting: int, *, of: BatchCost = FIXED, seen: Company, leave_by: float = math.inf
) -> Hold | None:
    return best_hold(waiting, now=5.0, leave_by=leave_by, max_batch_size=16, cost=of, company=seen)


def test_a_fixed_cost_is_shared_with_those_who_come_at_once() -> None:
    found = hold(1, seen=company(1, *SOON))
    assert found == Hold(until=5.002, size=8)


@pytest.mark.parametrize("seen", [company(1), company(1, 0.04), company(4, *SOON)])
def test_nobody_is_waited_for_who_is_not_known_to_come_soon(seen: Company) -> None:
    assert hold(1, seen=seen) is None


def test_requests_that_cost_what_they_cost_wait_for_nobody() -> None:
    assert hold(1, of=PER_ITEM, seen=company(1, *SOON)) is None


def test_many_do_not_wait_for_one() -> None:
    assert hold(12, seen=company(12, 0.004)) is None


def test_a_wait_ends_when_the_oldest_must_leave() -> None:
    seen = company(1, *SOON)
    assert hold(1, seen=seen, leave_by=5.0005) is None
    assert hold(1, seen=seen, leave_by=5.0015) == Hold(until=5.001, size=6)


def test_a_batch_is_never_planned_above_its_limit() -> None:
    found = hold(8, seen=company(8, *([0.0001] * 30)))
    assert found is not None
    assert found.size == 16


def test_cheap_batches_are_not_worth_a_timer() -> None:
    assert not may_pay(0.0)
    assert not may_pay(0.002)
    assert may_pay(0.02)


@pytest.mark.parametrize(
    ("waiting", "num_free", "of", "taken"),
    [
        (5, 1, PER_ITEM, 5),
        (30, 1, PER_ITEM, 16),
        (4, 2, PER_ITEM, 2),
        (5, 2, PER_ITEM, 3),
        (2, 4, PER_ITEM, 1),
        (64, 2, PER_ITEM, 16),
        (10, 2, FIXED, 10),
        (10, 2, BatchCost(max_batch_size=16), 10),
    ],
)
def test_idle_workers_share_what_waits_if_that_is_faster(
    waiting: int, num_free: int, of: BatchCost, taken: int
) -> None:
    assert share(waiting, num_free=num_free, max_batch_size=16, cost=of) == taken
