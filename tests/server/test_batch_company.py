from __future__ import annotations

import pytest

from flambeau.batch_company import WINDOWS_S, Company

ONE_MS, TWO_MS, FOUR_MS = WINDOWS_S[:3]


def watched(company: Company, *arrivals_s: float, waiting: int = 1, until_s: float = 0.005) -> None:
    """One moment at time 10, with arrivals so long after it."""
    company.watch(waiting, now=10.0, until=10.0 + until_s)
    for arrival_s in arrivals_s:
        company.came(10.0 + arrival_s)
    company.settle(now=11.0)


def test_those_who_come_are_counted_by_window() -> None:
    company = Company(max_batch_size=16)
    for _ in range(100):
        watched(company, 0.0005, 0.0007, 0.0015, 0.003)
    assert company.expected(1)[:4] == pytest.approx([2, 3, 4, 0], abs=0.02)


def test_moments_with_more_waiting_are_counted_apart() -> None:
    company = Company(max_batch_size=16)
    watched(company, 0.0005, waiting=9)
    assert company.expected(1)[0] == 0
    assert company.expected(8)[0] > 0
    assert company.expected(15)[0] > 0


def test_a_moment_cut_short_teaches_only_its_shorter_windows() -> None:
    company = Company(max_batch_size=16)
    company.watch(1, now=10.0, until=10.1)
    company.came(10.0005)
    company.watch(1, now=10.0021, until=10.1)
    assert company.expected(1)[0] > 0
    assert company.expected(1)[1] > 0
    assert company.expected(1)[2] == 0


def test_who_comes_no_more_is_forgotten() -> None:
    company = Company(max_batch_size=16)
    for _ in range(100):
        watched(company, 0.0005)
    for _ in range(100):
        watched(company)
    assert company.expected(1)[0] < 0.01
