"""Several processes, in every strategy, against one; what they leave is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from flambeau.errors import ConfigError
from flambeau.exporting.checkpoint import export_checkpoint
from tests.faults.collected import RecordProperty
from tests.training import two_ranks
from tests.training.test_train import IRIS, ROOT, assert_same, environment
from training.checkpoint import Checkpoint, load
from training.config import read_config
from training.models import resnet18
from training.strategies import make_strategy, parts, whole
from training.train import main, train

EXACT = (*IRIS, "device=cpu", "epochs=3", "optimizer.name=sgd", "optimizer.lr=0.02")
OPTIONS = (
    "optimizer.clip_norm=0.5",
    "optimizer.ema_decay=0.9",
    "accumulate=2",
    "log_gradients=true",
)
TWO = ("batch_size=15",)
ONE = ("batch_size=30",)
DROPOUT = (*IRIS, "device=cpu", "epochs=3", "model.dropout=0.2", "batch_size=16")


@dataclass(frozen=True, slots=True)
class Runs:
    """Finished runs of two ranks, by directory name."""

    directory: Path

    def path(self, name: str, epoch: int) -> Path:
        return self.directory / name / "checkpoints" / f"epoch-{epoch:05d}.pt"

    def last(self, name: str) -> Checkpoint:
        return load(self.path(name, 3))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All that the tests below look at, one after the other in one program."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    several = {
        "ddp": (*EXACT, *OPTIONS, *TWO, "strategy=ddp"),
        "fsdp": (*EXACT, *OPTIONS, *TWO, "strategy=fsdp"),
        "ddp_after_fsdp": (
            *(*EXACT, *OPTIONS, *TWO, "strategy=ddp"),
            f"resume={runs.path('fsdp', 1)}",
        ),
        "dropout_ddp": (*DROPOUT, "strategy=ddp"),
        "dropout_ddp_killed": (
            *(*DROPOUT, "strategy=ddp", "resume=auto"),
            *("kill=1@5", "kill=0@4"),
        ),
        "dropout_fsdp": (*DROPOUT, "strategy=fsdp", "async_save=true"),
        "dropout_fsdp_again": (
            *(*DROPOUT, "strategy=fsdp"),
            f"resume={runs.path('dropout_fsdp', 1)}",
        ),
    }
    arguments = [
        json.dumps([*settings, f"output={runs.directory / name}"])
        for name, settings in several.items()
    ]
    command = [sys.executable, str(Path(two_ranks.__file__)), *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout.count("epoch   3") == len(several)  # rank 0 alone reports
    assert result.stdout.count("epochs done, continuing") == 4
    assert result.stderr.count("equal gradients") > two_ranks.NUM_RANKS * 6 * 6  # steps, weights
    return runs


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """What one rank learns from batches as large as those of two."""
    output = tmp_path_factory.mktemp("one")
    result = train(read_config(None, overrides=[*EXACT, *OPTIONS, *ONE, f"output={output}"]))
    return load(result.last_checkpoint)


def assert_close(one: Checkpoint, other: Checkpoint) -> None:
    """The same training, but for the order of sums."""
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    for name, weights in one["model_state_dict"].items():
        torch.testing.assert_close(weights, other["model_state_dict"][name], atol=1e-6, rtol=0)
    states = one["optimizer_state_dict"]["state"], other["optimizer_state_dict"]["state"]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp", "ddp_after_fsdp"])
def test_two_ranks_in_any_strategy_equal_one_with_batches_of_both(
    runs: Runs, one: Checkpoint, name: str
) -> None:
    assert_close(one, runs.last(name))


@pytest.mark.slow
def test_one_rank_may_have_the_only_shard(one: Checkpoint, tmp_path: Path) -> None:
    settings = [*EXACT, *OPTIONS, *ONE, "strategy=fsdp", f"output={tmp_path}"]
    result = train(read_config(None, overrides=settings))
    assert_close(one, load(result.last_checkpoint))


@pytest.mark.slow
def test_what_was_trained_in_shards_is_exported_as_any_other(runs: Runs, tmp_path: Path) -> None:
    checkpoint = runs.path("fsdp", 3)
    report = export_checkpoint(checkpoint, name="iris", version="1.0", path=tmp_path)
    assert report.parity.agrees


@pytest.mark.slow
def test_a_sharded_run_that_is_resumed_equals_one_that_was_not(
    runs: Runs, record_property: RecordProperty
) -> None:
    record_property("case", "C16 checkpoints")
    record_property("equal_resumptions", 1)
    whole_run, resumed = runs.last("dropout_fsdp"), runs.last("dropout_fsdp_again")
    assert_same({**whole_run, "config": None}, {**resumed, "config": None})
    assert len(whole_run["rng_states"]) == two_ranks.NUM_RANKS


@pytest.mark.slow
def test_fewer_processes_go_on_where_more_have_stopped(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [*EXACT, *OPTIONS, f"resume={runs.path('fsdp', 1)}", f"output={tmp_path}"]
    result = train(read_config(None, overrides=[*settings, *ONE]))
    assert_close(load(result.last_checkpoint), runs.last("fsdp"))
    assert "is of 2 processes, and 1 go on, with 60 samples in a step instead of 60" in caplog.text


@pytest.mark.slow
def test_more_samples_in_a_step_leave_the_schedule_in_its_place(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [*EXACT, *OPTIONS, f"resume={runs.path('fsdp', 1)}", f"output={tmp_path}"]
    result = train(read_config(None, overrides=[*settings, *TWO]))
    checkpoint = load(result.last_checkpoint)
    assert checkpoint["step"] == 3 * 4  # twice as many as with two processes
    assert checkpoint["scheduler_state_dict"]["last_epoch"] == 3 * 4
    assert checkpoint["scheduler_state_dict"]["_last_lr"] == [0.0, 0.0]
    assert "with 30 samples in a step instead of 60" in caplog.text
    with pytest.raises(ConfigError, match=r"batch_size is 20, but .* was trained with 15"):
        train(read_config(None, overrides=[*settings, f"output={tmp_path}/2", "batch_size=20"]))


@pytest.mark.slow
def test_ranks_that_die_are_started_again_and_end_as_if_they_had_not(
    runs: Runs, record_property: RecordProperty
) -> None:
    record_property("case", "C16 checkpoints")
    record_property("kills", 2)
    undisturbed, killed = runs.last("dropout_ddp"), runs.last("dropout_ddp_killed")
    assert_same({**undisturbed, "config": None}, {**killed, "config": None})


def test_one_strategy_needs_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*IRIS, "strategy=single"]) == 2
    assert capsys.readouterr().err == (
        "error: strategy is 'single', and 2 processes were started; use auto, ddp or fsdp, or "
        "start one\n"
    )


def test_sharded_losses_are_not_scaled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*IRIS, "strategy=fsdp", "precision=16-mixed"]) == 2
    assert "use bf16-mixed" in capsys.readouterr().err


def test_deepspeed_is_an_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*IRIS, "strategy=deepspeed"]) == 2
    error = capsys.readouterr().err
    assert "which is not installed: pip install 'flambeau[deepspeed]'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "accelerator", "message"),
    [
        ("device=cpu", "cpu", "needs a GPU; use strategy=fsdp"),
        ("accumulate=2", "cuda", "accumulate is 2, and strategy=deepspeed takes 1 only"),
        ("optimizer.clip_norm=1", "cuda", "optimizer.clip_norm is 1.0, and .* takes 0.0 only"),
    ],
)
def test_what_deepspeed_cannot_do_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, accelerator: str, message: str
) -> None:
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = read_config(None, overrides=["strategy=deepspeed", setting])
    with pytest.raises(ConfigError, match=message):
        make_strategy(config, accelerator=accelerator, num_processes=1)


def test_large_parts_of_a_model_are_sharded_apart() -> None:
    model = resnet18(num_classes=10, in_channels=1)
    found = parts(model)
    assert found[-1] is model
    counts = [sum(each.numel() for each in part.parameters()) for part in found]
    assert all(count >= 1_000_000 for count in counts)
    assert len(found) > 3
    assert parts(nn.Linear(2, 2)) != []


def test_a_model_whose_modules_share_weights_is_sharded_as_one() -> None:
    first, last = nn.Linear(1024, 1024), nn.Linear(1024, 1024)
    assert len(parts(nn.Sequential(first, last))) == 3
    last.weight = first.weight
    model = nn.Sequential(first, last)
    assert parts(model) == [model]


def test_what_is_kept_of_a_state_does_not_change_with_it() -> None:
    state = {"step": 1, "parts": [torch.zeros(2)]}
    kept, left = whole(state, keep=True), whole(state, keep=False)
    state["parts"][0].add_(1)  # type: ignore[index]
    assert kept["parts"][0].tolist() == [0, 0]  # type: ignore[index]
    assert left["parts"][0].numel() == 0  # type: ignore[index]
