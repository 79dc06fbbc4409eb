from __future__ import annotations

import random

import numpy as np
import torch

from training.determinism import deterministic, rng_states, seed_all, set_rng_states


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_equal_seeds_give_equal_numbers_everywhere() -> None:
    seed_all(7)
    first = draw()
    seed_all(7)
    assert draw() == first
    seed_all(8)
    assert draw() != first


def test_saved_states_bring_the_same_numbers_again() -> None:
    seed_all(1)
    np.random.randn()  # leaves half a pair behind, which is part of the state
    states = rng_states()
    first = draw(), float(np.random.randn())
    set_rng_states(states)
    assert (draw(), float(np.random.randn())) == first


def test_the_caller_gets_its_settings_back() -> None:
    num_threads = torch.get_num_threads()
    with deterministic(num_threads=num_threads + 1):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == num_threads + 1
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == num_threads
