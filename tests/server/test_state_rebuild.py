"""What an operator reads, and finds on the disk, when a state file could not be used."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flambeau.state import Stored, companions
from flambeau.state_recovery import open_state
from flambeau.state_snapshot import read_snapshot, snapshot_path, write_snapshot
from tests.server.state_writer import memory_directory, save, state


@pytest.fixture
def path() -> Generator[Path]:
    """A state file with two commits, and its snapshot."""
    with memory_directory() as directory:
        path = directory / "state.db"
        with closing(open_state(path)) as file:
            save(file, 1)
            save(file, 2)
        yield path


def opened(path: Path, *, fresh: bool = False) -> Stored:
    with closing(open_state(path, fresh=fresh)) as file:
        return file.stored


def moved(path: Path, number: int = 1) -> Path:
    return path.with_name(f"state.db.moved-{number}")


def test_what_a_rebuild_is_made_of_and_where_the_file_went_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = opened(path)
    path.write_bytes(b"short")
    after = opened(path)
    told, done = caplog.messages
    assert told == (
        f"state file {path} cannot be used: it has 5 bytes, fewer than its header; it was moved "
        f"to {moved(path)}"
    )
    assert done == f"state file {path} is rebuilt from {snapshot_path(path)}"
    assert after == replace(before, generation=before.generation + 1)
    assert moved(path).read_bytes() == b"short"
    assert opened(path) == after == read_snapshot(path)


def test_without_a_snapshot_the_reason_stays_until_it_is_acted_on(path: Path) -> None:
    path.write_bytes(b"short")
    snapshot_path(path).unlink()
    stored = opened(path)
    assert stored.lost == (
        f"what was served is not known: state file {path} cannot be used (it has 5 bytes, fewer "
        f"than its header); it was moved to {moved(path)}; put a copy of it back, or start with "
        "--fresh and register the models again"
    )
    assert opened(path) == stored == read_snapshot(path)


def test_each_damaged_file_is_kept(path: Path) -> None:
    for number in (1, 2, 3):
        path.write_bytes(b"%d" % number)
        assert opened(path).desired == state(2)
    assert [moved(path, number).read_bytes() for number in (1, 2, 3)] == [b"1", b"2", b"3"]


def test_a_damaged_file_takes_its_log_along(path: Path) -> None:
    logs = companions(path)
    path.write_bytes(b"short")
    for log in logs:
        log.write_bytes(b"log")
    opened(path)
    assert [each.read_bytes() for each in companions(moved(path))] == [b"log", b"log"]
    assert not any(log.exists() for log in logs)


@pytest.mark.parametrize("trace", ["state.db.moved-1", "state.db-wal", "state.db-shm"])
def test_a_file_that_is_missing_is_missed_where_there_is_a_trace(path: Path, trace: str) -> None:
    snapshot_path(path).unlink()
    path.rename(path.with_name(trace))
    lost = opened(path).lost
    assert f"cannot be used (it is missing, while {trace} is there); put a copy" in lost


def test_a_file_that_is_missing_is_rebuilt_from_its_snapshot(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.unlink()
    assert opened(path).desired == state(2)
    assert caplog.messages[0] == f"state file {path} cannot be used: it is missing"
    assert not moved(path).exists()


def test_a_file_that_contradicts_its_snapshot_is_told_how(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = path.read_bytes()
    with closing(open_state(path)) as file:
        save(file, 3)
    path.write_bytes(old)
    assert opened(path).desired == state(3)
    assert "cannot be used: it is at generation 2, its snapshot at 3; it was" in caplog.messages[0]
    caplog.clear()
    (other := path.parent / "other").mkdir()
    opened(other / "state.db")
    shutil.copy(other / "state.db", path)
    assert opened(path).desired == state(3)
    assert "cannot be used: it is another server's; it was moved" in caplog.messages[0]


def test_a_snapshot_that_is_behind_or_missing_is_written_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = opened(path)
    write_snapshot(path, replace(stored, generation=1, desired=state(1)))
    assert opened(path) == stored == read_snapshot(path)
    snapshot_path(path).unlink()
    assert opened(path) == stored == read_snapshot(path)
    assert caplog.messages == []
    assert not moved(path).exists()


def test_a_fresh_start_keeps_the_file_and_begins_anew(path: Path) -> None:
    before = opened(path)
    after = opened(path, fresh=True)
    assert (after.desired, after.lost, after.generation) == (state(0), "", 0)
    assert after.instance != before.instance
    assert opened(path) == after == read_snapshot(path)
    assert opened(moved(path)).desired == state(2)


def test_a_fresh_start_needs_no_file(path: Path) -> None:
    path.unlink()
    assert opened(path, fresh=True).desired == state(0)
    assert not moved(path).exists()
