"""`kill -9` of a training, at any moment: resuming goes on as if nothing had happened."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.collected import RecordProperty
from tests.training import killed_training
from tests.training.killed_training import NUM_SAVES
from tests.training.test_train import ROOT, assert_same, environment
from training.checkpoint import Checkpoint, Checkpoints, load

NUM_KILLS = int(os.environ.get("NUM_TRAINING_KILLS", "4"))


def kills(*arguments: object) -> list[tuple[int, int]]:
    """What each kill came upon: the last epoch reported before it, the one found after it."""
    command = [sys.executable, str(Path(killed_training.__file__)), *map(str, arguments)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    pairs = [line.split() for line in result.stdout.splitlines()]
    return [(int(reported), int(epoch)) for reported, epoch in pairs]


def last(directory: Path) -> Checkpoint:
    """The last checkpoint of a run."""
    newest = Checkpoints(directory / "checkpoints", keep=1).newest()
    assert newest is not None
    return newest[1]


@pytest.mark.slow
def test_a_training_killed_at_random_ends_as_one_that_was_not(
    tmp_path: Path, record_property: RecordProperty
) -> None:
    pairs = kills("random", tmp_path, NUM_KILLS, 1)
    assert len(pairs) == NUM_KILLS
    for reported, epoch in pairs:
        assert epoch in {reported, reported + 1}  # written, perhaps, and not yet reported
    whole, killed = last(tmp_path / "whole"), last(tmp_path / "killed")
    settings = {"config": None}  # which say where each run is
    assert_same({**whole, **settings}, {**killed, **settings})
    best = [load(tmp_path / run / "checkpoints" / "best.pt") for run in ("whole", "killed")]
    assert_same(best[0]["model_state_dict"], best[1]["model_state_dict"])
    with (tmp_path / "killed" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [
            *range(1, whole["epoch"] + 1)
        ]
    record_property("case", "C16 checkpoints")
    record_property("kills", NUM_KILLS)


@pytest.mark.slow
def test_a_save_killed_at_any_step_leaves_the_checkpoint_before_or_the_new_one(
    tmp_path: Path, record_property: RecordProperty
) -> None:
    pairs = kills("steps", tmp_path)
    assert {reported for reported, _ in pairs} == set(range(NUM_SAVES))
    for reported, epoch in pairs:
        assert epoch in {reported, reported + 1}
    assert len(pairs) > 8 * NUM_SAVES  # create, write, sync, rename, sync again, twice; remove
    record_property("case", "C16 checkpoints")
    record_property("kills", len(pairs))
