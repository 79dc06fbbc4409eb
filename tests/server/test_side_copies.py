from __future__ import annotations

import torch

from flambeau.side_copies import regrouped


def test_tensors_are_grouped_again_as_they_were() -> None:
    tensors = [torch.tensor(number) for number in range(4)]
    groups = regrouped(tensors, [2, 0, 1, 1])
    assert [[tensor.item() for tensor in group] for group in groups] == [[0, 1], [], [2], [3]]
