"""State files that were damaged, emptied, exchanged or removed are known for it."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from flambeau.state import companions
from flambeau.state_recovery import open_state
from flambeau.state_snapshot import snapshot_path
from flambeau.testing import Fault, FaultyDisk
from tests.faults.collected import RecordProperty
from tests.server.state_writer import memory_directory, save, state

LAST = 4  # the good state is that after so many commits


@pytest.fixture
def tmp_path() -> Generator[Path]:
    with memory_directory() as directory:
        yield directory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file with four commits, and its snapshot."""
    return make(tmp_path / "state.db")


def make(path: Path, *, commits: int = LAST) -> Path:
    with closing(open_state(path)) as file:
        for number in range(1, commits + 1):
            save(file, number)
    return path


def check_good_or_lost(path: Path, *, moved: bool | None = None) -> str:
    """The next start must have the good state, or know that it has not; returns why."""
    with closing(open_state(path)) as file:
        if file.stored.lost:
            assert file.stored.desired.models == {}
        else:
            assert file.stored.desired == state(LAST)
        if moved is not None:
            assert path.with_name(f"{path.name}.moved-1").exists() is moved
        return file.stored.lost


def copy_to(path: Path, directory: Path) -> Path:
    """The same state file, with its snapshot, in a directory of its own."""
    directory.mkdir()
    shutil.copy(snapshot_path(path), directory)
    return Path(shutil.copy(path, directory))


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_a_flipped_bit_is_found_or_harmless(
    path: Path, tmp_path: Path, record_property: RecordProperty, *, has_snapshot: bool
) -> None:
    content, chance = path.read_bytes(), random.Random(1)
    places = [*range(0, 100, 2), *(chance.randrange(len(content)) for _ in range(50))]
    num_found = 0
    for number, place in enumerate(places):
        damaged = copy_to(path, tmp_path / str(number))
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        damaged.write_bytes(flipped)
        if not has_snapshot:
            snapshot_path(damaged).unlink()
        lost = check_good_or_lost(damaged)
        num_found += damaged.with_name("state.db.moved-1").exists()
        assert not (lost and has_snapshot)
    assert num_found > 20
    record_property("case", "C17 damaged state file")
    record_property("flips", len(places))


def test_a_flip_in_any_record_is_found(path: Path) -> None:
    """Where SQLite itself sees nothing wrong."""
    content = path.read_bytes()
    place = content.index(b"m-4.mar")
    path.write_bytes(content.replace(b"m-4.mar", b"m-3.mar"))
    assert path.read_bytes()[place : place + 7] == b"m-3.mar"
    assert check_good_or_lost(path, moved=True) == ""


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_a_truncated_file_is_moved_aside(
    path: Path, tmp_path: Path, record_property: RecordProperty, *, has_snapshot: bool
) -> None:
    record_property("case", "C17 damaged state file")
    record_property("truncations", 20)
    content = path.read_bytes()
    for number in range(20):
        damaged = copy_to(path, tmp_path / str(number))
        damaged.write_bytes(content[: len(content) * number // 20])
        if not has_snapshot:
            snapshot_path(damaged).unlink()
        lost = check_good_or_lost(damaged, moved=True)
        assert bool(lost) is not has_snapshot


def test_a_lost_state_stays_known_until_a_fresh_start(path: Path) -> None:
    path.write_bytes(b"")
    snapshot_path(path).unlink()
    for _ in range(2):
        lost = check_good_or_lost(path, moved=True)
        assert str(path.with_name("state.db.moved-1")) in lost
        assert "start with --fresh" in lost
    with closing(open_state(path, fresh=True)) as file:
        assert file.stored.lost == ""
    with closing(open_state(path)) as file:
        assert file.stored.lost == ""


def test_a_snapshot_that_was_changed_is_not_believed(path: Path) -> None:
    snapshot = snapshot_path(path)
    snapshot.write_text(snapshot.read_text().replace("m-4.mar", "m-3.mar"))
    path.write_bytes(b"no database at all")
    assert check_good_or_lost(path, moved=True) != ""


def with_log(path: Path) -> bytes:
    """A log that changes the state file without changing its checksum."""
    main, wal = path.read_bytes(), companions(path)[0]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        reader = sqlite3.connect(path, isolation_level=None)
        with closing(reader):
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM meta").fetchall()
            connection.execute("UPDATE meta SET value = '1' WHERE key = 'generation'")
            log = wal.read_bytes()
    path.write_bytes(main)
    return log


def test_a_removed_log_does_not_bring_an_old_state_back(path: Path) -> None:
    """The main file is older than its snapshot then."""
    old = path.read_bytes()
    with closing(open_state(path)) as file:
        save(file, LAST + 1)
    new = state(LAST + 1)
    path.write_bytes(old)
    with closing(open_state(path)) as file:
        assert file.stored.desired == new
    assert path.with_name("state.db.moved-1").read_bytes() == old


@pytest.mark.parametrize("source", ["another server's", "its own, from before"])
def test_an_exchanged_log_does_no_harm(
    path: Path, tmp_path: Path, source: str, record_property: RecordProperty
) -> None:
    record_property("case", "C17 damaged state file")
    record_property("exchanged_logs", 1)
    other = path
    if source == "another server's":
        (tmp_path / "other").mkdir()
        other = make(tmp_path / "other" / "state.db", commits=2)
    log = with_log(other)
    assert log
    with closing(open_state(path)) as file:
        assert file.stored.desired == state(LAST)
    companions(path)[0].write_bytes(log)
    assert check_good_or_lost(path) == ""


def test_another_server_s_file_is_not_believed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other" / "state.db", commits=2)
    shutil.copy(other, path)
    assert check_good_or_lost(path, moved=True) == ""


@pytest.mark.parametrize("schema", [0, 2])
def test_another_schema_is_rebuilt_from_the_snapshot(path: Path, schema: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema}")
    assert check_good_or_lost(path, moved=True) == ""


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_a_file_that_was_removed_is_missed(path: Path, *, has_snapshot: bool) -> None:
    path.rename(path.with_name("state.db.moved-1"))  # as a start that was cut off leaves it
    if not has_snapshot:
        snapshot_path(path).unlink()
    assert bool(check_good_or_lost(path)) is not has_snapshot


def test_a_first_start_misses_nothing(tmp_path: Path) -> None:
    with closing(open_state(tmp_path / "new" / "state.db")) as file:
        assert (file.stored.lost, file.stored.desired.models) == ("", {})


def test_the_snapshot_is_a_table_as_torchserve_s(path: Path) -> None:
    document = json.loads(snapshot_path(path).read_text())
    assert document["modelCount"] == 1
    assert document["models"]["m"]["4"] == {
        "defaultVersion": True,
        "marName": "m-4.mar",
        "minWorkers": 4,
        "maxWorkers": 4,
        "batchSize": 1,
        "maxBatchDelay": 100,
        "responseTimeout": 120,
        "startupTimeout": 120,
        "runtimeType": "python",
    }


def test_a_file_that_cannot_be_read_now_is_left_alone(path: Path) -> None:
    content = path.read_bytes()
    disk = FaultyDisk(2, Fault.IO_ERROR)  # the first step reads the snapshot
    with pytest.raises(OSError, match="Input/output error"):
        open_state(path, disk=disk)
    assert path.read_bytes() == content
    assert check_good_or_lost(path, moved=False) == ""
