"""The search on a known response surface: no server, no clock, the same each time."""

from __future__ import annotations

import sys
from itertools import count

import pytest

from flambeau.errors import TuningError
from flambeau.messages import OptimizeLevel
from flambeau.tuning.candidate import Candidate
from flambeau.tuning.search import require_optuna, search
from flambeau.tuning.space import SearchSpace
from flambeau.tuning.trial import Trial

pytestmark = pytest.mark.slow  # importing optuna takes half a second

SPACE = SearchSpace(
    num_cpus=16,
    workers=(1, 2, 4, 8, 16),
    batch_sizes=(1, 2, 4, 8, 16, 32, 64),
    delays_ms=(0, 1, 2, 5, 10),
    levels=(OptimizeLevel.OFF, OptimizeLevel.SAFE),
)
PRESENT = Trial(
    candidate=Candidate(workers=1, max_delay_ms=100, level=OptimizeLevel.OFF), requests_per_s=30.0
)
BEST = Candidate(workers=8, batch_size=16, level=OptimizeLevel.SAFE)


def rate_of(candidate: Candidate) -> float:
    """Rises to one peak in each setting: 8 workers, batches of 16, no delay, `safe`."""
    workers = {1: 0.2, 2: 0.4, 4: 0.7, 8: 1.0, 16: 0.8}[candidate.workers]
    batch = {1: 0.2, 2: 0.35, 4: 0.6, 8: 0.85, 16: 1.0, 32: 0.8, 64: 0.3}[candidate.batch_size]
    threads = 1.0 if candidate.threads == 0 else 0.8
    delay = 1 - candidate.max_delay_ms / 40
    level = 1.0 if candidate.level is OptimizeLevel.SAFE else 0.9
    return 1000 * workers * batch * threads * delay * level


class Surface:
    """Measures candidates by `rate_of`; gives up as a bench does."""

    def __init__(self) -> None:
        self.asked: list[Candidate] = []

    def __call__(self, candidate: Candidate, *, give_up_below: float) -> Trial:
        self.asked.append(candidate)
        rate = rate_of(candidate)
        is_pruned = rate < give_up_below
        return Trial(
            candidate=candidate, requests_per_s=rate / 2 if is_pruned else rate, is_pruned=is_pruned
        )


def run(surface: Surface, *, num_trials: int, space: SearchSpace = SPACE) -> list[Trial]:
    turns = count()
    return list(
        search(space, surface, present=PRESENT, is_over=lambda: next(turns) >= num_trials, seed=3)
    )


def test_a_tenth_of_the_space_is_enough_to_come_close_to_its_peak() -> None:
    trials = run(Surface(), num_trials=len(list(SPACE)) // 10)
    assert max(trial.requests_per_s for trial in trials) >= 0.9 * rate_of(BEST)


def test_the_same_seed_and_measurements_give_the_same_trials() -> None:
    assert run(Surface(), num_trials=15) == run(Surface(), num_trials=15)


def test_no_candidate_is_measured_twice_nor_the_archive_s_again() -> None:
    small = SearchSpace(
        num_cpus=2,
        workers=(1, 2),
        batch_sizes=(1, 2),
        delays_ms=(0, 1),
        levels=(OptimizeLevel.OFF,),
    )
    surface = Surface()
    run(surface, num_trials=1000, space=small)
    assert len(set(surface.asked)) == len(surface.asked)
    assert PRESENT.candidate not in surface.asked
    # 3 ways to share out two CPUs, with batches of 1, or of 2 that wait for 0 or 1 ms
    assert len(surface.asked) == 9


def test_candidates_that_cannot_win_are_given_up_and_do_not_mislead() -> None:
    trials = run(Surface(), num_trials=40)
    assert any(trial.is_pruned for trial in trials)
    best = max(trials, key=lambda trial: trial.requests_per_s)
    assert not best.is_pruned


def test_without_optuna_the_message_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TuningError, match=r"pip install 'flambeau\[tune\]'"):
        require_optuna()
