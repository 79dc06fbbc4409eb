"""How tensors get to a CUDA device; `make test-gpu`."""

from __future__ import annotations

import pytest
import torch

from flambeau.handler import moved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("num_items", [1, 1_000, 100_000, 4_000_000])
def test_each_tensor_arrives_as_it_was_though_its_memory_is_used_again(num_items: int) -> None:
    device = torch.device("cuda")
    arrived: list[torch.Tensor] = []
    for number in range(20):
        tensor = torch.full((num_items,), float(number))
        arrived.append(moved(tensor, device))
        tensor.fill_(-1.0)  # what was pinned is a copy
        del tensor
    for number, got in enumerate(arrived):
        assert got.device.type == "cuda"
        assert bool((got == number).all())
