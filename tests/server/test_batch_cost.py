from __future__ import annotations

import itertools
import random

import pytest

from flambeau.batch_cost import BatchCost


def learned(*batches: tuple[int, float], rounds: int = 50) -> BatchCost:
    cost = BatchCost(max_batch_size=16)
    for size, seconds in itertools.chain.from_iterable(itertools.repeat(batches, rounds)):
        cost.observe(size, seconds)
    return cost


def test_nothing_is_known_before_the_first_batch() -> None:
    cost = BatchCost(max_batch_size=16)
    assert cost.expected_s(16) == cost.at_least_s(1) == 0
    assert cost.line() == (0, 0)


def test_a_line_fills_in_sizes_that_were_never_seen() -> None:
    cost = learned((1, 0.011), (4, 0.014), (8, 0.018))
    assert cost.expected_s(12) == pytest.approx(0.022, rel=0.05)
    assert cost.line() == pytest.approx((0.010, 0.001), rel=0.2)


def test_a_size_that_is_unlike_the_others_has_its_own_cost() -> None:
    cost = learned((1, 0.011), (7, 0.090), (8, 0.018))
    assert cost.expected_s(7) == pytest.approx(0.090)


def test_with_one_size_nothing_is_taken_for_fixed() -> None:
    fixed_s, per_item_s = learned((8, 0.016)).line()
    assert fixed_s == pytest.approx(0, abs=1e-9)
    assert per_item_s == pytest.approx(0.002)


def test_a_batch_that_got_stuck_changes_little() -> None:
    cost = learned((4, 0.01))
    cost.observe(4, 60.0)
    assert cost.expected_s(4) < 0.013
    assert cost.at_least_s(4) < 0.013


def test_slow_first_batches_are_forgotten() -> None:
    cost = learned((4, 2.0), (4, 0.01), (4, 0.01), rounds=1)
    assert cost.expected_s(4) == pytest.approx(0.01)


def test_a_model_that_becomes_slower_is_noticed() -> None:
    cost = learned((4, 0.01))
    for _ in range(200):
        cost.observe(4, 0.1)
    assert cost.expected_s(4) == pytest.approx(0.1, rel=0.05)


def test_one_fast_batch_shows_what_is_possible() -> None:
    cost = learned((4, 0.1))
    cost.observe(4, 0.01)
    assert cost.expected_s(4) > 0.09
    assert cost.at_least_s(4) == pytest.approx(0.01, rel=0.1)


def test_larger_batches_than_were_seen_are_promised_nothing() -> None:
    assert learned((1, 0.01)).at_least_s(16) == pytest.approx(0.01)


def test_costs_that_vary_stay_positive_and_in_order() -> None:
    source = random.Random(1)
    cost = BatchCost(max_batch_size=16)
    for _ in range(2000):
        size = source.randint(1, 16)
        cost.observe(size, (0.001 + 0.002 * size) * source.lognormvariate(0, 0.5))
    fixed_s, per_item_s = cost.line()
    assert fixed_s >= 0
    assert 0.001 < per_item_s < 0.004
