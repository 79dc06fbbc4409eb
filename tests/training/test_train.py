from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import training
from flambeau.errors import ConfigError
from tests.faults.collected import RecordProperty
from training.checkpoint import load, save
from training.config import DataConfig, OptimizerConfig, TrainConfig, read_config
from training.errors import DataError, NonFiniteLoss
from training.run import alone_in
from training.train import main, train

ROOT = Path(training.__file__).parents[1]
CONFIGS = ROOT / "training" / "configs"
IRIS = ("data.name=tabular", "data.table=iris", "model.name=mlp", "num_threads=1")


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def digits(output: Path) -> TrainConfig:
    """LeNet-5 with moved images, as shipped, for two epochs."""
    return read_config(
        CONFIGS / "digits_lenet.toml", overrides=["epochs=2", "batch_size=128", f"output={output}"]
    )


def assert_same(left: Any, right: Any) -> None:  # noqa: ANN401  # whatever a checkpoint holds
    """Equal to the last bit."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for item, other in zip(left, right, strict=True):
            assert_same(item, other)
    else:
        assert left == right


@pytest.mark.slow
def test_lenet_reads_97_of_100_held_out_digits_after_six_epochs(tmp_path: Path) -> None:
    config = read_config(
        CONFIGS / "digits_lenet.toml", overrides=["epochs=6", f"output={tmp_path}", "device=cpu"]
    )
    result = train(config)
    assert result.metrics["val_accuracy"] >= 0.97


@pytest.mark.slow
def test_equal_seeds_give_equal_bits_and_others_do_not(tmp_path: Path) -> None:
    first, again, other = (
        train(replace(digits(tmp_path / name), seed=seed))
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    assert first.metrics == again.metrics
    assert first.loss == again.loss != other.loss
    weights = [load(result.last_checkpoint)["model_state_dict"] for result in (first, again)]
    assert_same(*weights)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(iris: TrainConfig, tmp_path: Path) -> None:
    with_workers = replace(iris, epochs=1, data=replace(iris.data, num_workers=2))
    without = replace(iris, epochs=1, output=tmp_path / "without")
    assert train(with_workers).metrics == train(without).metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "digits"])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    name: str, iris: TrainConfig, tmp_path: Path, record_property: RecordProperty
) -> None:
    record_property("case", "C16 checkpoints")
    record_property("equal_resumptions", 1)
    config = iris if name == "iris" else digits(tmp_path / "run")
    whole = train(config)
    # The same run, stopped after its first epoch.
    directory = tmp_path / "stopped" / "checkpoints"
    directory.mkdir(parents=True)
    shutil.copy(whole.last_checkpoint.with_name("epoch-00001.pt"), directory)
    shutil.copy(config.output / "metrics.csv", directory.parent)
    resumed = train(replace(config, output=directory.parent, resume="auto"))

    expected, found = load(whole.last_checkpoint), load(resumed.last_checkpoint)
    for key in (
        "model_state_dict",
        "optimizer_state_dict",
        "rng_states",
        "metrics",
        "best",
        "step",
    ):
        assert_same(expected[key], found[key])
    with (directory.parent / "metrics.csv").open(newline="", encoding="utf-8") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
    assert epochs == list(range(1, config.epochs + 1))


def test_a_run_leaves_checkpoints_a_table_and_tensorboard_files(iris: TrainConfig) -> None:
    result = train(iris)
    with (iris.output / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) == result.loss == result.metrics["train_loss"]
    assert float(rows[-1]["lr"]) == pytest.approx(0)
    assert list(iris.output.glob("events.out.tfevents.*"))
    assert load(result.best_checkpoint)["metrics"] == result.best_metrics


def test_a_finished_run_is_not_trained_again(iris: TrainConfig) -> None:
    first = train(iris)
    written_at = first.last_checkpoint.stat().st_mtime_ns
    again = train(replace(iris, resume="auto"))
    assert (again.metrics, again.best_metrics) == (first.metrics, first.best_metrics)
    assert again.last_checkpoint.stat().st_mtime_ns == written_at


def test_a_new_run_does_not_mix_with_an_old_one(iris: TrainConfig) -> None:
    train(iris)
    with pytest.raises(ConfigError, match=r"of an earlier run; .*resume=auto"):
        train(iris)


def test_two_runs_do_not_write_to_one_directory_at_a_time(iris: TrainConfig) -> None:
    with alone_in(iris.output), pytest.raises(ConfigError, match=r"written to by another run"):
        train(iris)
    train(iris)


def test_resuming_with_other_settings_or_data_names_the_difference(iris: TrainConfig) -> None:
    last = train(iris).last_checkpoint
    with pytest.raises(
        ConfigError, match=rf"optimizer.lr is 0.1, but {last} was trained with 0.05"
    ):
        train(replace(iris, resume="auto", optimizer=OptimizerConfig(lr=0.1)))
    checkpoint = load(last)
    checkpoint["data_digest"] = "0" * 64
    save(last, checkpoint)
    with pytest.raises(DataError, match=f"the data is not what {last} was trained on"):
        train(replace(iris, resume="auto"))


def test_a_nan_loss_names_its_step_and_the_last_good_checkpoint(iris: TrainConfig) -> None:
    last = train(iris).last_checkpoint
    checkpoint = load(last)
    checkpoint["model_state_dict"]["layers.0.bias"][3] = float("nan")
    save(last, checkpoint)
    with pytest.raises(NonFiniteLoss) as caught:
        train(replace(iris, epochs=4, resume="auto"))
    message = str(caught.value)
    assert f"the loss is nan in epoch 4, step {checkpoint['step'] + 1}; " in message
    assert f"the last good checkpoint is {last}" in message
    assert not last.with_name("epoch-00004.pt").exists()


def test_a_loss_that_explodes_in_the_first_epoch_leaves_no_checkpoint(iris: TrainConfig) -> None:
    wild = replace(iris, optimizer=OptimizerConfig(name="sgd", lr=1e30))
    with pytest.raises(NonFiniteLoss, match="in epoch 1, step 2; no checkpoint yet"):
        train(wild)
    assert list((iris.output / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epoch=3"], "error: there is no setting 'epoch'; did you mean 'epochs'?\n"),
        (["nowhere.toml"], "error: cannot read the config nowhere.toml: No such file"),
        (["data.name=mnist", "data.root=/nowhere"], "train-images-idx3-ubyte is not there"),
        (["resume=/nowhere/x.pt"], "error: cannot read the checkpoint /nowhere/x.pt"),
    ],
)
def test_the_command_line_says_what_is_wrong_without_a_traceback(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*arguments, f"output={tmp_path}"])
    error = capsys.readouterr().err
    assert status == (1 if "resume" in arguments[0] else 2)
    assert message in error
    assert error.count("\n") == 1


def test_a_damaged_image_found_by_a_worker_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(4):
            (tmp_path / name / f"{index}.png").write_bytes(b"no image")
    status = main(
        [
            "data.name=image_folder",
            f"data.root={tmp_path}",
            "data.num_workers=1",
            f"output={tmp_path / 'run'}",
        ]
    )
    error = capsys.readouterr().err
    assert status == 2
    assert "cannot read the image" in error
    assert error.count("\n") == 1


def test_the_command_line_trains_and_prints_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*IRIS, "epochs=2", f"output={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mlp, ")
    assert lines[1].startswith("epoch   1  loss ")
    assert lines[2].startswith("epoch   2  loss ")
    assert lines[3].startswith("best val_accuracy ")
    assert str(tmp_path / "checkpoints" / "best.pt") in lines[3]
    assert "\x1b" not in "".join(lines)


@contextmanager
def heeding(number: signal.Signals) -> Generator[None]:
    """Processes started in the block do not inherit that a signal is ignored."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_ctrl_c_exits_130_with_the_last_checkpoint_usable(
    tmp_path: Path, record_property: RecordProperty
) -> None:
    record_property("case", "C16 checkpoints")
    record_property("interrupts", 1)
    command = [sys.executable, "-m", "training.train", *IRIS, "epochs=100000", f"output={tmp_path}"]
    # a shell that runs the tests in the background lets them, and theirs, ignore Ctrl-C
    with (
        heeding(signal.SIGINT),
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("epoch   2"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == 130
    assert errors == "interrupted; the same command with resume=auto continues\n"
    result = train(
        read_config(None, overrides=[*IRIS, "epochs=1", f"output={tmp_path}", "resume=auto"])
    )
    assert load(result.last_checkpoint)["epoch"] >= 2
    assert list((tmp_path / "checkpoints").glob(".*")) == []


def test_tables_are_not_moved_or_turned() -> None:
    with pytest.raises(ConfigError, match=r"data\.name=tabular has none"):
        DataConfig(name="tabular", max_shift=0.1)
