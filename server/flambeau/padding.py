"""Texts of different lengths in one tensor, with little of it filled up.

A model computes what is filled up, too. So a batch of texts is cut into calls of similar lengths
wherever that costs less than the further calls do.

Shapes: B = batch, T = tokens of the longest.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence


def calls_by_length(lengths: Sequence[int], *, call_cost: int) -> list[list[int]]:
    """Which texts share a call of the model, so that the whole batch costs least.

    A call is taken to cost `call_cost` plus its longest text's length for each of its texts. Calls
    of neighbouring lengths are never worse than others, so only where to cut is searched: at most
    as many steps as half the number of different lengths, squared.

    Args:
        lengths: In tokens, 1 or more each.
        call_cost: What a call costs beside its tokens, in tokens.

    Returns:
        Places in `lengths`, each in one call; shorter texts first.
    """
    places_by_length: dict[int, list[int]] = defaultdict(list)
    for place, length in enumerate(lengths):
        places_by_length[length].append(place)
    kinds = sorted(places_by_length.items())
    least_cost = [0]  # of all texts before a kind
    begin_of_call = [0]  # the first kind in the call that ends before a kind
    for end, (length, _) in enumerate(kinds, 1):
        num_texts, options = 0, list[tuple[int, int]]()
        for begin in range(end - 1, -1, -1):
            num_texts += len(kinds[begin][1])
            options.append((least_cost[begin] + call_cost + num_texts * length, begin))
        cost, begin = min(options)
        least_cost.append(cost)
        begin_of_call.append(begin)
    calls: list[list[int]] = []
    end = len(kinds)
    while end:
        begin = begin_of_call[end]
        calls.append([place for _, places in kinds[begin:end] for place in places])
        end = begin
    return calls[::-1]


def padded(rows: Sequence[torch.Tensor], *, filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts side by side, each filled up to the longest.

    Args:
        rows: Numbers of tokens, int64, (N,) each; at least one.
        filler: The number that stands behind the end of a text.

    Returns:
        int64, (B, T), and bool, (B, T), False behind the end of a text.
    """
    tokens_BT = pad_sequence(list(rows), batch_first=True, padding_value=filler)
    ends_B1 = torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return tokens_BT, torch.arange(tokens_BT.shape[1]) < ends_B1
