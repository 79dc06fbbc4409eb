from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from flambeau.padding import calls_by_length, padded


def cost(lengths: list[int], calls: list[list[int]], call_cost: int) -> int:
    return sum(call_cost + len(call) * max(lengths[place] for place in call) for call in calls)


def least_cost(lengths: list[int], call_cost: int) -> int:
    """By trying all ways to cut the texts in order of length."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    inner = range(1, len(lengths))
    return min(
        cost(
            lengths, [order[a:b] for a, b in zip((0, *cuts), (*cuts, None), strict=True)], call_cost
        )
        for num_cuts in range(len(lengths))
        for cuts in combinations(inner, num_cuts)
    )


@given(
    lengths=st.lists(st.integers(min_value=1, max_value=128), min_size=1, max_size=8),
    call_cost=st.sampled_from([0, 1, 16, 64, 1000]),
)
def test_calls_cost_least_and_hold_every_text_once(lengths: list[int], call_cost: int) -> None:
    calls = calls_by_length(lengths, call_cost=call_cost)
    assert sorted(place for call in calls for place in call) == list(range(len(lengths)))
    assert cost(lengths, calls, call_cost) == least_cost(lengths, call_cost)


def test_texts_of_one_length_share_a_call_whatever_it_costs() -> None:
    assert calls_by_length([7, 7, 7], call_cost=0) == [[0, 1, 2]]


def test_no_texts_need_no_call() -> None:
    assert calls_by_length([], call_cost=64) == []


def test_short_texts_are_filled_up_and_masked() -> None:
    tokens, mask = padded([torch.tensor([5, 6]), torch.tensor([7])], filler=9)
    assert tokens.tolist() == [[5, 6], [7, 9]]
    assert mask.tolist() == [[True, True], [True, False]]
