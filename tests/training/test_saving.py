"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from flambeau.disk import Disk
from flambeau.testing import Fault, FaultyDisk
from tests.training.test_checkpoint import full_disk
from tests.training.test_train import IRIS, assert_same
from training.checkpoint import Checkpoint, Checkpoints, load
from training.config import TrainConfig, read_config
from training.errors import CheckpointError
from training.saving import Saving
from training.train import TrainResult, train

T = TypeVar("T")
SETTINGS = (*IRIS, "epochs=3", "batch_size=16", "model.dropout=0.2")


class HeldDisk(Disk):
    """A disk that renames nothing before it is told to.

    Attributes:
        asked: Set when it has been asked to.
        told: To be set then.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.told = threading.Event()

    def at(self, step: str, work: Callable[[], T]) -> T:
        if step == "rename":
            self.asked.set()
            self.told.wait()
        return work()


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run that wrote each checkpoint before it went on."""
    return train(
        read_config(None, overrides=[*SETTINGS, f"output={tmp_path_factory.mktemp('run')}"])
    )


@pytest.fixture
def checkpoint(at_once: TrainResult) -> Checkpoint:
    return load(at_once.last_checkpoint)


def prepared(directory: Path, disk: Disk) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep=3, disk=disk)
    checkpoints.prepare()
    return checkpoints


def epoch(checkpoint: Checkpoint, number: int) -> Checkpoint:
    return {**checkpoint, "epoch": number}


def test_training_goes_on_while_a_checkpoint_is_written_and_waits_for_it_before_the_next(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    disk = HeldDisk()
    checkpoints = prepared(tmp_path, disk)
    with Saving(checkpoints, in_background=True) as saving:
        saving.save(epoch(checkpoint, 1))
        assert disk.asked.wait(timeout=60)
        assert checkpoints.newest() is None
        disk.told.set()
        saving.save(epoch(checkpoint, 2))
        assert checkpoints.path(1).exists()
    assert checkpoints.path(2).exists()


def saved(checkpoints: Checkpoints, *numbered: Checkpoint, then: BaseException | None) -> None:
    """Save some in the background, and end with an exception, if there is one."""
    with Saving(checkpoints, in_background=True) as saving:
        for each in numbered:
            saving.save(each)
        if then is not None:
            raise then


def test_an_interrupted_run_waits_for_its_last_checkpoint(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    disk = HeldDisk()
    checkpoints = prepared(tmp_path, disk)

    def let_go() -> None:
        disk.asked.wait()
        disk.told.set()

    other = threading.Thread(target=let_go)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        saved(checkpoints, epoch(checkpoint, 1), then=KeyboardInterrupt())
    other.join()
    assert checkpoints.path(1).exists()


@pytest.mark.parametrize("numbers", [[1], [1, 2]], ids=["at_the_end", "at_the_next_save"])
def test_what_could_not_be_written_is_told(
    tmp_path: Path, checkpoint: Checkpoint, numbers: list[int]
) -> None:
    checkpoints = prepared(tmp_path, FaultyDisk(1, Fault.NO_SPACE))
    with pytest.raises(CheckpointError, match=r"cannot write .*: No space left"):
        saved(checkpoints, *(epoch(checkpoint, number) for number in numbers), then=None)
    assert checkpoints.newest() is None


def test_what_could_not_be_written_does_not_hide_what_ended_the_run(
    tmp_path: Path, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = prepared(tmp_path, FaultyDisk(1, Fault.NO_SPACE))
    with pytest.raises(KeyboardInterrupt):
        saved(checkpoints, epoch(checkpoint, 1), then=KeyboardInterrupt())
    assert "No space left" in caplog.text


def test_a_run_that_saves_in_the_background_leaves_the_same(
    at_once: TrainResult, tmp_path: Path
) -> None:
    other = train(read_config(None, overrides=[*SETTINGS, f"output={tmp_path}", "async_save=true"]))
    assert other.metrics == at_once.metrics
    for number in (1, 2, 3):
        name = f"epoch-{number:05d}.pt"
        one = load(at_once.last_checkpoint.with_name(name))
        again = load(other.last_checkpoint.with_name(name))
        assert_same({**one, "config": None}, {**again, "config": None})


def test_a_run_whose_last_checkpoint_is_not_written_has_failed(iris: TrainConfig) -> None:
    with (
        full_disk(num_bytes=5_000),
        pytest.raises(CheckpointError, match=r"best\.pt \([\d,]+ bytes\): File too large"),
    ):
        train(replace(iris, epochs=1, async_save=True))
