from __future__ import annotations

import pytest

from flambeau.tuning.rate_search import RateSearch


def follow(search: RateSearch, *, limit: float) -> list[float]:
    """All rates it asks for when every rate up to `limit` is met."""
    asked: list[float] = []
    while (rate := search.next_rate()) is not None:
        asked.append(rate)
        search.record(rate, is_met=rate <= limit)
    return asked


@pytest.mark.parametrize("limit", [55.0, 300.0, 640.0, 799.0, 801.0, 970.0, 1000.0, 5000.0])
def test_the_highest_rate_is_found_to_the_precision_asked_for(limit: float) -> None:
    search = RateSearch(first=800, ceiling=1000, max_tries=20)
    follow(search, limit=limit)
    reachable = min(limit, 1000)
    assert reachable / 1.1 <= search.met <= reachable * 1.08


def test_it_takes_few_measurements() -> None:
    assert len(follow(RateSearch(first=800, ceiling=1000), limit=700)) <= 6


def test_no_rate_is_met_where_none_can_be() -> None:
    search = RateSearch(first=800, ceiling=1000, max_tries=4)
    assert follow(search, limit=0) == [800, 400, 200, 100]
    assert search.met == 0


def test_it_ends_when_the_answer_is_known_to_be_too_low() -> None:
    search = RateSearch(first=800, ceiling=1000, give_up_below=500)
    assert follow(search, limit=100) == [800, 400]
    assert search.is_hopeless


def test_nothing_is_measured_where_the_ceiling_is_too_low() -> None:
    search = RateSearch(first=80, ceiling=100, give_up_below=500)
    assert search.next_rate() is None
    assert search.is_hopeless
