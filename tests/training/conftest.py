from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from training.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from training.train import train

if TYPE_CHECKING:
    from pathlib import Path

    from training.train import TrainResult


@pytest.fixture
def iris(tmp_path: Path) -> TrainConfig:
    """A run of a tenth of a second that draws random numbers in every step."""
    return TrainConfig(
        output=tmp_path / "run",
        epochs=3,
        batch_size=16,
        num_threads=1,
        data=DataConfig(name="tabular", table="iris"),
        model=ModelConfig(name="mlp", hidden=(16,), dropout=0.2),
        optimizer=OptimizerConfig(lr=0.05),
    )


@pytest.fixture
def trained(iris: TrainConfig) -> TrainResult:
    """That run, finished."""
    return train(iris)
