"""What may be switched on in the loop: that it does what it says, and can be resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from flambeau.errors import ConfigError
from tests.training.test_train import assert_same
from training.checkpoint import load
from training.config import DataConfig, OptimizerConfig, TrainConfig, read_config
from training.data import class_weights, load_data
from training.train import train

_SGD = OptimizerConfig(name="sgd", lr=0.02)


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """After training."""
    return load(train(config).last_checkpoint)["model_state_dict"]


def without_dropout(config: TrainConfig, output: Path) -> TrainConfig:
    return replace(
        config, output=output, optimizer=_SGD, model=replace(config.model, dropout=0.0), epochs=2
    )


def test_batches_of_one_step_count_as_one_batch(iris: TrainConfig, tmp_path: Path) -> None:
    config = without_dropout(iris, tmp_path / "whole")
    whole = weights(replace(config, batch_size=40))
    parts = replace(config, output=tmp_path / "parts", batch_size=20, accumulate=2)
    for name, found in weights(parts).items():
        torch.testing.assert_close(found, whole[name], atol=1e-6, rtol=0)


def test_a_step_at_the_end_of_an_epoch_is_the_mean_of_what_is_left(
    iris: TrainConfig, tmp_path: Path
) -> None:
    config = without_dropout(iris, tmp_path / "run")
    result = train(replace(config, batch_size=20, accumulate=4))
    assert load(result.last_checkpoint)["step"] == 4  # 6 batches in an epoch: 4, then 2


def test_a_clipped_gradient_moves_the_weights_no_further(iris: TrainConfig, tmp_path: Path) -> None:
    config = replace(without_dropout(iris, tmp_path / "run"), epochs=1, batch_size=120)
    clipped = replace(config, optimizer=replace(_SGD, clip_norm=1e-3, weight_decay=0.0))
    clipped = replace(clipped, schedule=replace(config.schedule, name="none", warmup_epochs=0.0))
    last = weights(replace(clipped, epochs=2))
    first = load(tmp_path / "run" / "checkpoints" / "epoch-00001.pt")["model_state_dict"]
    moved = [(last[name] - first[name]).norm() for name in last if name.startswith("layers")]
    momentum = 1 + _SGD.momentum  # the second step repeats part of the first
    assert 0 < torch.stack(moved).norm() <= _SGD.lr * 1e-3 * momentum * 1.001


def test_averaged_weights_are_validated_kept_and_resumed(iris: TrainConfig, tmp_path: Path) -> None:
    config = replace(iris, optimizer=replace(iris.optimizer, ema_decay=0.9))
    whole = train(config)
    checkpoint = load(whole.last_checkpoint)
    assert "training_state_dict" in checkpoint
    averaged, latest = checkpoint["model_state_dict"], checkpoint["training_state_dict"]
    assert averaged.keys() == latest.keys()
    assert not torch.equal(averaged["layers.0.weight"], latest["layers.0.weight"])

    directory = tmp_path / "stopped" / "checkpoints"
    directory.mkdir(parents=True)
    shutil.copy(whole.last_checkpoint.with_name("epoch-00001.pt"), directory)
    resumed = train(replace(config, output=directory.parent, resume="auto"))
    again = load(resumed.last_checkpoint)
    assert "training_state_dict" in again
    assert again["metrics"] == checkpoint["metrics"]
    assert_same(again["model_state_dict"], averaged)
    assert_same(again["training_state_dict"], latest)


def test_training_ends_when_nothing_gets_better(iris: TrainConfig) -> None:
    # a rate too small to change what is predicted, so that only the first epoch is a best one
    stuck = replace(iris, optimizer=OptimizerConfig(name="sgd", lr=1e-30), epochs=50, patience=3)
    result = train(stuck)
    checkpoint = load(result.last_checkpoint)
    assert (checkpoint["epoch"], checkpoint.get("num_stale")) == (4, 3)
    again = train(replace(stuck, resume="auto"))
    assert again.last_checkpoint == result.last_checkpoint


def test_rare_classes_weigh_more(tmp_path: Path) -> None:
    config = DataConfig(name="tabular", table="breast_cancer", class_weights="balanced")
    settings = read_config(None, overrides=["data.name=tabular", "model.name=mlp"])
    data = load_data(config, image=settings.image)
    found = class_weights(data, kind="balanced")
    assert found is not None
    counts = torch.bincount(torch.from_numpy(data.train.labels_N))
    torch.testing.assert_close(found * counts, torch.full((2,), len(data.train) / 2))
    assert class_weights(data, kind="none") is None
    run = replace(settings, data=config, epochs=1, output=tmp_path, num_threads=1)
    assert train(run).metrics["val_accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_model_learns_the_same(iris: TrainConfig, tmp_path: Path) -> None:
    config = without_dropout(iris, tmp_path / "plain")
    plain = weights(config)
    for name, found in weights(replace(config, output=tmp_path / "fast", compile=True)).items():
        torch.testing.assert_close(found, plain[name], atol=1e-5, rtol=1e-5)


def test_gradients_waiting_and_a_trace_can_be_looked_at(iris: TrainConfig) -> None:
    config = replace(iris, log_gradients=True, log_every_steps=1, profile_steps=2)
    train(config)
    events = EventAccumulator(str(config.output)).Reload()
    norms = events.Scalars("gradient/layers.0.weight")
    assert len(norms) == config.epochs * (120 // 16)
    assert all(event.value > 0 for event in norms)
    trace = json.loads((config.output / "trace-0.json").read_text(encoding="utf-8"))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= names
    assert "ProfilerStep#4" not in names
    assert any(name.startswith("aten::") for name in names)


def test_scaled_losses_are_for_gpus(iris: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"precision is '16-mixed', .*use bf16-mixed"):
        train(replace(iris, device="cpu", precision="16-mixed"))
