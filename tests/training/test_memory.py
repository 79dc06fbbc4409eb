from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import training
from training.config import OptimizerConfig, TrainConfig
from training.memory import main, predicted, step_memory
from training.models import lenet5, mlp, resnet18

CONFIGS = Path(training.__file__).parent / "configs"
FLOAT_BYTES = 4


@pytest.mark.parametrize(("name", "per_weight"), [("adamw", 2), ("sgd", 1)])
def test_each_part_is_what_arithmetic_says(name: str, per_weight: int) -> None:
    batch, features, width, classes = 8, 5, 7, 3
    model = mlp(num_features=features, num_classes=classes, hidden=[width])
    config = OptimizerConfig(name=name)  # type: ignore[arg-type]
    x, labels_B = torch.zeros(batch, features), torch.zeros(batch, dtype=torch.int64)
    found = step_memory(model, x, labels_B, optimizer=config)
    weights = features * width + width + width * classes + classes
    assert found.parameters == FLOAT_BYTES * (weights + 2 * features)  # mean and spread
    assert found.gradients == FLOAT_BYTES * weights
    num_steps = FLOAT_BYTES * 4 if name == "adamw" else 0  # a counter for each of four tensors
    assert found.optimizer_state == FLOAT_BYTES * weights * per_weight + num_steps
    # the standardised input, the hidden layer, the log of the softmax, the weight of the loss
    expected = batch * (features + width + classes) + 1
    assert found.activations == FLOAT_BYTES * expected


@pytest.mark.slow
@pytest.mark.parametrize("make", [lenet5, resnet18])
def test_what_is_predicted_without_memory_is_what_is_measured(
    make: Callable[..., nn.Module],
) -> None:
    batch = 4
    config = TrainConfig(batch_size=batch)
    shape = (1, 32, 32)
    expected = predicted(config, input_shape=shape, model=make(num_classes=10, in_channels=1))
    x, labels_B = torch.zeros(batch, *shape), torch.zeros(batch, dtype=torch.int64)
    model = make(num_classes=10, in_channels=1)
    found = step_memory(model, x, labels_B, optimizer=config.optimizer)
    assert (found.parameters, found.gradients) == (expected.parameters, expected.gradients)
    assert found.optimizer_state == expected.optimizer_state
    assert found.activations == pytest.approx(expected.activations, rel=0.05)


def test_only_activations_grow_with_the_batch() -> None:
    few, many = (
        predicted(
            TrainConfig(batch_size=size),
            input_shape=(1, 32, 32),
            model=lenet5(num_classes=10),
        )
        for size in (10, 100)
    )
    assert (few.parameters, few.gradients) == (many.parameters, many.gradients)
    assert many.activations == pytest.approx(10 * few.activations, rel=0.01)


def test_the_command_prints_a_row_for_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(CONFIGS / "digits_lenet.toml"), "batch_size=256", "device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lenet5, batches of 256, float32"
    assert lines[1].split() == ["part", "predicted", "measured"]
    assert [line.split()[0] for line in lines[2:]] == [
        *("parameters", "gradients", "optimizer", "activations", "total")
    ]
    assert lines[2].split()[1:] == ["0.24", "MiB", "0.24", "MiB"]


def test_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.toml"]) == 2
    assert "cannot read the config nowhere.toml" in capsys.readouterr().err
