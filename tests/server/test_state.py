"""Commits that fail or are cut off at every step: refused and absent, or acknowledged and there."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from flambeau.desired import Desired
from flambeau.state import Operation, StateFile, Stored
from flambeau.state_recovery import open_state
from flambeau.state_snapshot import snapshot_path
from flambeau.testing import Fault, FaultyDisk
from tests.faults.collected import RecordProperty
from tests.server import state_writer
from tests.server.state_writer import NUM_COMMITS, memory_directory, number_of, save, state

PROGRAM = Path(state_writer.__file__)
NUM_KILLS = int(os.environ.get("NUM_KILLS", "8"))  # of a writer, at random
_FAILURES = (OSError, sqlite3.Error)


@pytest.fixture
def tmp_path() -> Generator[Path]:
    with memory_directory() as directory:
        yield directory


def remembered(path: Path) -> Desired:
    """What the next start finds; it must be sound."""
    with closing(open_state(path)) as file:
        assert file.stored.lost == ""
        return file.stored.desired


def is_saved(file: StateFile, number: int, *, disk: FaultyDisk) -> bool:
    try:
        save(file, number, disk=disk)
    except _FAILURES:
        return False
    return True


def test_what_is_committed_is_there_after_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for number in (1, 2):
        with closing(open_state(path)) as file:
            assert file.stored.desired == state(number - 1)
            save(file, number)
    assert remembered(path) == state(2)


def test_the_main_file_alone_is_a_backup(tmp_path: Path) -> None:
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    with closing(open_state(path)) as file:
        save(file, 1)
        copy.write_bytes(path.read_bytes())
    assert remembered(copy) == state(1)


def test_others_than_the_owner_cannot_read_it(tmp_path: Path) -> None:
    path = tmp_path / "private" / "state.db"
    open_state(path).close()
    assert path.parent.stat().st_mode & 0o077 == 0
    assert snapshot_path(path).stat().st_mode & 0o077 == 0


def test_the_log_of_operations_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flambeau.state._MAX_OPERATIONS", 3)
    with closing(open_state(tmp_path / "state.db")) as file:
        for number in range(1, 6):
            file.commit(state(number), Operation(name="register", model="m", version=str(number)))
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        rows = connection.execute("SELECT generation, operation, version FROM operations")
        assert rows.fetchall() == [(3, "register", "3"), (4, "register", "4"), (5, "register", "5")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "from_then_on"),
    [
        (Fault.NO_SPACE, False),
        (Fault.NO_SPACE, True),
        (Fault.IO_ERROR, False),
        (Fault.IO_ERROR, True),
        (Fault.INTERRUPTED, False),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_step_that_fails_refuses_the_commit_or_hurts_nothing(
    tmp_path: Path,
    fault: Fault,
    record_property: RecordProperty,
    *,
    from_then_on: bool,
    after: bool,
) -> None:
    """Every step in turn, until a run has none left to fail."""
    step = 0
    while True:
        step += 1
        path = tmp_path / str(step) / "state.db"
        disk = FaultyDisk(step, fault, from_then_on=from_then_on, after=after)
        acknowledged = 0
        try:
            with closing(open_state(path, disk=disk)) as file:
                for number in range(1, NUM_COMMITS + 1):
                    if is_saved(file, number, disk=disk):
                        acknowledged = number
                    assert file.stored.desired == state(acknowledged)
                if disk.has_failed and not from_then_on:
                    assert acknowledged >= NUM_COMMITS - 1  # it recovered without a restart
        except _FAILURES:
            assert acknowledged == 0
        # a disk that does all it is told and denies it for ever has the last word
        allowed = {acknowledged, acknowledged + 1} if after and from_then_on else {acknowledged}
        assert number_of(remembered(path)) in allowed, disk.steps[step - 1]
        if not disk.has_failed:
            break
    assert set(disk.steps) >= {"open", "write", "fsync", "rename", "unlink", "dir fsync", "sqlite"}
    assert step > 80
    record_property("case", "C15 state file")
    record_property("failed_steps", step - 1)


@pytest.mark.slow
def test_a_writer_killed_at_any_step_leaves_the_last_acknowledged_state_or_the_next(
    tmp_path: Path, record_property: RecordProperty
) -> None:
    subprocess.run([sys.executable, str(PROGRAM), "points", str(tmp_path)], check=True, timeout=100)
    places = sorted(tmp_path.iterdir())
    assert len(places) > 160
    for place in places:
        told = place / "acknowledged"
        acknowledged = int(told.read_text()) if told.exists() else 0
        assert number_of(remembered(place / "state.db")) in {acknowledged, acknowledged + 1}, place
    record_property("case", "C15 state file")
    record_property("kills_at_a_step", len(places))


@pytest.mark.slow
def test_a_writer_killed_at_random_loses_nothing_that_was_acknowledged(
    tmp_path: Path, record_property: RecordProperty
) -> None:
    path, chance = tmp_path / "state.db", random.Random(0)
    total = 0
    for _ in range(NUM_KILLS):
        with subprocess.Popen(
            [sys.executable, str(PROGRAM), "forever", str(path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()  # it is at work
            chunk = writer.stdout.read(chance.randrange(1, 200))
            writer.kill()
            last = (chunk + writer.stdout.read()).decode().splitlines()
        total = number_of(remembered(path))
        acknowledged = int(last[-1]) if last[-1].isdigit() else 0
        assert total - acknowledged in {0, 1}
    assert total > NUM_KILLS
    record_property("case", "C15 state file")
    record_property("kills_at_random", NUM_KILLS)


def test_a_database_that_may_not_grow_refuses_and_then_goes_on(tmp_path: Path) -> None:
    """SQLite's own error, not one that a test has made up."""
    path = tmp_path / "state.db"
    large = state(1)
    for number in range(2, 200):
        large = large.with_version(next(iter(state(number).models["m"].versions)))
    with closing(open_state(path)) as file:
        save(file, 1)
        assert file._connection is not None
        file._connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            file.commit(large, Operation(name="register"))
        assert file.stored.desired == state(1)
        save(file, 2)
    assert remembered(path) == state(2)


def test_a_new_file_holds_what_it_is_given(tmp_path: Path) -> None:
    stored = Stored(generation=7, desired=state(3), lost="why", instance="i")
    with closing(StateFile.create(tmp_path / "state.db", stored)) as file:
        assert file.stored == stored


def test_a_commit_that_fails_or_is_only_said_to_have_failed_leaves_room_for_the_next(
    tmp_path: Path,
) -> None:
    """Every step of one commit in turn, which is done or not, and then denied."""
    register = Operation(name="register", model="m", version="1")
    sound = FaultyDisk(1_000_000, Fault.IO_ERROR)
    with closing(open_state(tmp_path / "sound.db", disk=sound)) as file:
        first = len(sound.steps) + 1
        file.commit(state(1), register)
    refused: set[str] = set()
    for step in range(first, len(sound.steps) + 1):
        for after in (False, True):
            path = tmp_path / f"{step}-{after}.db"
            with closing(open_state(path, disk=FaultyDisk(step, Fault.IO_ERROR, after=after))) as f:
                try:
                    f.commit(state(1), register)
                except _FAILURES as error:
                    refused.add(str(error))
                    assert f.stored.desired == state(0)
                generation = f.stored.generation
                f.commit(state(2), register)
                assert f.stored.generation == generation + 1
            assert remembered(path) == state(2)
    assert refused == {"disk I/O error"}
