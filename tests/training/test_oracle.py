"""What torch computes while it trains is what mathematics says: NumPy computes it again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.training.numpy_lenet import Node, NumpyLeNet5, backward
from training.config import DataConfig, ImageConfig
from training.data import load_data
from training.models import lenet5

LR = 0.1
NUM_STEPS = 20
BATCH_SIZE = 16
TOLERANCE = 1e-5


@pytest.mark.slow
def test_torch_trains_lenet_as_an_independent_implementation_does() -> None:
    digits = load_data(DataConfig(name="digits"), image=ImageConfig()).train
    torch.manual_seed(0)
    model = lenet5(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    oracle = NumpyLeNet5({name: p.detach().numpy() for name, p in model.named_parameters()})
    losses: list[float] = []
    for step in range(NUM_STEPS):
        samples = [digits[step * BATCH_SIZE + place] for place in range(BATCH_SIZE)]
        x_BCHW = torch.stack([image for image, _ in samples])
        labels_B = torch.tensor([label for _, label in samples])
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x_BCHW), labels_B)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        expected = oracle.loss(x_BCHW.numpy(), labels_B.numpy())
        backward(expected)
        assert loss.item() == pytest.approx(float(expected.value), abs=TOLERANCE), step
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            difference = parameter.grad.numpy() - oracle.parameters[name].gradient
            assert np.abs(difference).max() < TOLERANCE, (step, name)
        optimizer.step()
        oracle.step(lr=LR)
        losses.append(loss.item())
    assert losses[-1] < losses[0]  # it has learnt, so that there was something to compare
    for name, parameter in model.named_parameters():
        assert np.abs(parameter.detach().numpy() - oracle.parameters[name].value).max() < TOLERANCE


def test_a_value_used_twice_gets_both_gradients() -> None:
    x = Node(np.array(3.0))
    square = Node(x.value * x.value, (x, x), lambda gradient: (gradient * x.value,) * 2)
    backward(square)
    assert x.gradient == 6.0
