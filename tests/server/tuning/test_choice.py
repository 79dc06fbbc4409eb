from __future__ import annotations

from itertools import count

from flambeau.tuning.candidate import Candidate
from flambeau.tuning.choice import Finalist, best_of, finalists_of, run_off
from flambeau.tuning.trial import Trial


def trial(rate: float, *, workers: int = 1) -> Trial:
    return Trial(candidate=Candidate(workers=workers), requests_per_s=rate, latency_s=0.01)


def test_finalists_are_the_best_that_met_the_objective() -> None:
    trials = [trial(0), trial(10), trial(30), trial(20)]
    assert finalists_of(trials, count=2) == [trial(30), trial(20)]
    assert finalists_of([trial(0)], count=2) == []


def test_they_take_turns() -> None:
    asked: list[Trial] = []

    def again(each: Trial) -> Trial:
        asked.append(each)
        return each

    first, second = trial(2), trial(1)
    finalists = run_off([first, second], again, num_rounds=3, is_over=lambda: False)
    assert asked == [first, second] * 3
    assert [len(each.rounds) for each in finalists] == [3, 3]


def test_a_round_that_time_cuts_off_counts_for_nobody() -> None:
    turns = count()
    finalists = run_off(
        [trial(2), trial(1)], lambda each: each, num_rounds=3, is_over=lambda: next(turns) >= 3
    )
    assert [len(each.rounds) for each in finalists] == [1, 1]


def test_the_median_round_decides() -> None:
    lucky = Finalist(trial=trial(10), rounds=(trial(100), trial(10), trial(10)))
    steady = Finalist(trial=trial(12), rounds=(trial(12), trial(12), trial(12)))
    assert best_of([lucky, steady]) is steady


def test_of_those_that_are_as_fast_the_smallest_wins() -> None:
    large, small, slow = trial(100, workers=8), trial(98, workers=2), trial(90, workers=1)
    winner = best_of([Finalist(trial=each) for each in (large, small, slow)])
    assert winner is not None
    assert winner.trial is small


def test_without_finalists_nobody_wins() -> None:
    assert best_of([]) is None
