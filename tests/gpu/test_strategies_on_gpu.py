"""Training on a CUDA device, in every strategy; `make test-gpu`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from flambeau.errors import ConfigError
from tests.training.test_train import IRIS
from training.checkpoint import Checkpoint, load
from training.config import read_config
from training.train import train

pytestmark = pytest.mark.gpu

SGD = ("device=cuda", "epochs=3", "optimizer.name=sgd", "optimizer.lr=0.02")


def trained(output: Path, *settings: str) -> Checkpoint:
    overrides = [*IRIS, *SGD, *settings, f"output={output}"]
    return load(train(read_config(None, overrides=overrides)).last_checkpoint)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_gpu_learns_in_any_strategy_what_it_learns_alone(tmp_path: Path, strategy: str) -> None:
    alone = trained(tmp_path / "alone")
    found = trained(tmp_path / strategy, f"strategy={strategy}", "async_save=true")
    for name, weights in alone["model_state_dict"].items():
        torch.testing.assert_close(found["model_state_dict"][name], weights, atol=1e-5, rtol=0)


def test_deepspeed_learns_the_same_where_it_is_installed(tmp_path: Path) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        with pytest.raises(ConfigError, match=r"pip install 'flambeau\[deepspeed\]'"):
            trained(tmp_path, "strategy=deepspeed")
        return
    alone = trained(tmp_path / "alone")
    found = trained(tmp_path / "zero", "strategy=deepspeed", "zero_stage=2")
    for name, weights in alone["model_state_dict"].items():
        torch.testing.assert_close(found["model_state_dict"][name], weights, atol=1e-5, rtol=0)
