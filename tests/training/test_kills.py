"""`kill -9` of a training, at any moment: resuming goes on as if nothing had happened."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.faults.collected import RecordProperty
from tests.training import killed_training
from tests.training.killed_training import NUM_SAVES, WAYS
from tests.training.test_train import ROOT, assert_same, environment
from training.checkpoint import Checkpoint, Checkpoints, load

NUM_KILLS = int(os.environ.get("NUM_TRAINING_KILLS", "4"))
UNWRITTEN = {"at_once": 0, "in_background": 1}  # epochs that may be reported and not on the disk
Kills: TypeAlias = dict[tuple[str, str], list[tuple[int, int]]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def kills(directory: Path) -> Kills:
    """What each kill came upon: the last epoch reported before it, the one found after it."""
    command = [sys.executable, str(Path(killed_training.__file__)), str(directory)]
    result = subprocess.run(
        [*command, str(NUM_KILLS), "1"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    pairs: Kills = defaultdict(list)
    for line in result.stdout.splitlines():
        kind, way, reported, epoch = line.split()
        pairs[kind, way].append((int(reported), int(epoch)))
    return pairs


def last(directory: Path) -> Checkpoint:
    """The last checkpoint of a run."""
    newest = Checkpoints(directory / "checkpoints", keep=1).newest()
    assert newest is not None
    return newest[1]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_training_killed_at_random_ends_as_one_that_was_not(
    directory: Path, kills: Kills, record_property: RecordProperty, way: str
) -> None:
    pairs = kills["random", way]
    assert len(pairs) == NUM_KILLS
    for reported, epoch in pairs:
        assert reported - UNWRITTEN[way] <= epoch
        assert epoch <= reported + 1  # written, perhaps, and not yet reported
    runs = [directory / "whole", directory / way / "killed"]
    whole, killed = (last(run) for run in runs)
    settings = {"config": None}  # which say where each run is
    assert_same({**whole, **settings}, {**killed, **settings})
    best = [load(run / "checkpoints" / "best.pt") for run in runs]
    assert_same(best[0]["model_state_dict"], best[1]["model_state_dict"])
    with (runs[1] / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [
            *range(1, whole["epoch"] + 1)
        ]
    record_property("case", "C16 checkpoints")
    record_property("kills", NUM_KILLS)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_save_killed_at_any_step_leaves_the_checkpoint_before_or_the_new_one(
    kills: Kills, record_property: RecordProperty, way: str
) -> None:
    pairs = kills["steps", way]
    assert {epoch for _, epoch in pairs} == set(range(NUM_SAVES + 1))
    for reported, epoch in pairs:
        assert reported - UNWRITTEN[way] <= epoch <= reported + 1
    assert len(pairs) > 8 * NUM_SAVES  # create, write, sync, rename, sync again, twice; remove
    record_property("case", "C16 checkpoints")
    record_property("kills", len(pairs))
