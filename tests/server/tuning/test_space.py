from __future__ import annotations

import random
from functools import partial

from flambeau.messages import OptimizeLevel
from flambeau.tuning.candidate import Candidate
from flambeau.tuning.machine import Machine
from flambeau.tuning.slo import parse_slo
from flambeau.tuning.space import SearchSpace, space_of

GB = 1 << 30
PRESENT = Candidate(workers=1, batch_size=4, max_delay_ms=5, level=OptimizeLevel.SAFE)


def space(
    *,
    num_cpus: int = 8,
    num_gpus: int = 0,
    free_gb: int = 100,
    slo: str = "p99=20ms",
    present: Candidate = PRESENT,
    levels: tuple[OptimizeLevel, ...] = (OptimizeLevel.OFF, OptimizeLevel.SAFE),
) -> SearchSpace:
    machine = Machine(num_cpus=num_cpus, num_gpus=num_gpus, free_bytes=free_gb * GB)
    return space_of(machine, present=present, worker_bytes=GB, slo=parse_slo(slo), levels=levels)


def place_in(places: dict[str, int], name: str, num_choices: int) -> int:
    assert 0 <= places[name] < num_choices
    return places[name]


def test_workers_and_their_threads_share_out_the_cpus() -> None:
    six = space(num_cpus=6)
    assert six.workers == (1, 2, 4, 6)
    assert [six.threads(workers) for workers in six.workers] == [(0, 3, 1), (0, 1), (0,), (0,)]


def test_no_more_workers_are_tried_than_fit_into_memory() -> None:
    assert space(num_cpus=16, free_gb=5).workers == (1, 2, 4)
    assert space(free_gb=0).workers == (1,)


def test_gpus_get_equally_many_workers_each_and_threads_do_not_matter() -> None:
    on_gpus = space(num_cpus=32, num_gpus=2, present=Candidate(workers=2))
    assert on_gpus.workers == (2, 4, 8)
    assert on_gpus.threads(2) == (0,)
    assert on_gpus.batch_sizes[-1] == 256


def test_no_batch_is_held_back_for_more_than_half_of_the_objective() -> None:
    assert space(slo="p99=5ms").delays_ms == (0, 1, 2)
    assert space(slo="p99=500us").delays_ms == (0,)


def test_what_the_archive_says_now_is_among_the_choices() -> None:
    odd = space(present=Candidate(workers=3, batch_size=24, level=OptimizeLevel.AUTO))
    assert odd.levels == (OptimizeLevel.OFF, OptimizeLevel.SAFE, OptimizeLevel.AUTO)
    assert 3 in odd.workers
    assert 24 in odd.batch_sizes


def test_every_choice_has_its_place() -> None:
    space_of_8 = space()
    chance = random.Random(1)
    for _ in range(200):
        candidate = space_of_8.choose(lambda _, num: chance.randrange(num))
        places = space_of_8.places(candidate)
        assert places is not None
        assert space_of_8.choose(partial(place_in, places)) == candidate


def test_a_space_lists_all_that_can_be_chosen() -> None:
    small = space(num_cpus=2)
    assert len(set(small)) == len(list(small))
    chance = random.Random(1)
    chosen = {small.choose(lambda _, num: chance.randrange(num)) for _ in range(5000)}
    assert chosen == set(small)


def test_a_batch_of_one_is_not_held_back() -> None:
    picked: dict[str, int] = {}

    def first(name: str, num_choices: int) -> int:
        picked[name] = num_choices
        return 0

    assert space().choose(first).max_delay_ms == 0
    assert picked["max_delay_ms"] == 1


def test_a_candidate_of_another_space_has_no_place() -> None:
    assert space().places(Candidate(workers=7, level=OptimizeLevel.SAFE)) is None
    assert space().places(Candidate(workers=1, level=OptimizeLevel.AUTO)) is None


def test_first_guesses_are_of_the_space() -> None:
    for each in (space(), space(num_cpus=1), space(slo="p99=100us"), space(num_gpus=1)):
        assert each.first_guesses()
        assert all(each.places(guess) is not None for guess in each.first_guesses())
