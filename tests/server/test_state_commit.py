"""Commits that the disk refuses, or does and denies: what is left of them, and what comes after."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flambeau.disk import Disk, SQLValue
from flambeau.state import Operation, StateFile, Stored
from flambeau.testing import Fault, FaultyDisk
from tests.server.state_writer import memory_directory, state

REGISTER = Operation(name="register", model="m", version="1")
_T = TypeVar("_T")


class MoodyDisk(Disk):
    """A disk that fails while it is told to.

    Attributes:
        is_gone: Whether every step fails.
        refuses: How statements begin that are not run.
        denies: How the statement begins that is run once and then said to have failed.
    """

    def __init__(self) -> None:
        self.is_gone = False
        self.refuses: str | None = None
        self.denies: str | None = None

    def at(self, step: str, work: Callable[[], _T]) -> _T:
        if self.is_gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().at(step, work)

    def execute(
        self, connection: sqlite3.Connection, sql: str, values: Sequence[SQLValue] = ()
    ) -> list[tuple[Any, ...]]:
        if self.refuses is not None and sql.startswith(self.refuses):
            raise sqlite3.OperationalError("disk I/O error")
        rows = super().execute(connection, sql, values)
        if self.denies is not None and sql.startswith(self.denies):
            self.denies = None
            raise sqlite3.OperationalError("disk I/O error")
        return rows


@pytest.fixture
def path() -> Generator[Path]:
    with memory_directory() as directory:
        yield directory / "state.db"


@pytest.fixture
def disk() -> MoodyDisk:
    return MoodyDisk()


@pytest.fixture
def file(path: Path, disk: MoodyDisk) -> Generator[StateFile]:
    """A file with one commit."""
    with closing(StateFile.create(path, Stored(), disk=disk)) as file:
        file.commit(state(1), REGISTER)
        yield file


def stored(path: Path) -> Stored:
    """What another start would find."""
    with closing(StateFile.open(path)) as file:
        return file.stored


def operations(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT generation, operation FROM operations").fetchall()


def test_a_commit_that_is_done_and_denied_is_undone(
    path: Path, file: StateFile, disk: MoodyDisk
) -> None:
    disk.denies = "COMMIT"
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        file.commit(state(2), REGISTER)
    assert file.stored == stored(path)
    assert file.stored.desired == state(1)
    assert operations(path) == [(0, "create"), (1, "register"), (2, "register"), (3, "undo")]


def test_a_commit_that_is_refused_leaves_no_trace(
    path: Path, file: StateFile, disk: MoodyDisk
) -> None:
    for statement in ("BEGIN", "DELETE FROM removed", "INSERT INTO versions", "COMMIT"):
        disk.refuses = statement
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            file.commit(state(2), REGISTER)
        disk.refuses = None
        assert file.stored == stored(path)
        assert operations(path) == [(0, "create"), (1, "register")]
    file.commit(state(2), REGISTER)
    assert stored(path).desired == state(2)
    assert operations(path)[-1] == (2, "register")


def test_while_the_disk_is_gone_every_commit_is_refused_and_then_it_goes_on(
    path: Path, file: StateFile, disk: MoodyDisk
) -> None:
    disk.is_gone = True
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            file.commit(state(2), REGISTER)
        assert file.stored.desired == state(1)
    disk.is_gone = False
    file.commit(state(3), REGISTER)
    assert stored(path) == file.stored
    assert (file.stored.desired, file.stored.generation) == (state(3), 2)


def test_a_file_that_could_not_be_opened_again_can_be_closed(
    path: Path, file: StateFile, disk: MoodyDisk
) -> None:
    disk.denies, disk.refuses = "COMMIT", "PRAGMA busy_timeout"
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        file.commit(state(2), REGISTER)
    file.close()
    assert file.stored.desired == state(1)
    assert stored(path).desired == state(2)  # the disk has the last word


def test_a_denied_commit_is_undone_before_the_next_when_it_could_not_be_at_once(
    path: Path, file: StateFile, disk: MoodyDisk
) -> None:
    disk.denies, disk.refuses = "COMMIT", "PRAGMA busy_timeout"
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        file.commit(state(2), REGISTER)
    disk.refuses = None
    file.commit(state(3), REGISTER)
    assert stored(path).desired == state(3)
    assert operations(path)[2:] == [(2, "register"), (3, "undo"), (4, "register")]


def test_a_log_that_cannot_be_brought_into_the_file_costs_no_commit(
    path: Path, file: StateFile, disk: MoodyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.refuses = "PRAGMA wal_checkpoint"
    file.commit(state(2), REGISTER)
    assert caplog.messages == [f"{path} keeps its log for now: disk I/O error"]
    assert (file.stored.desired, file.stored.generation) == (state(2), 2)
    file.close()
    assert stored(path) == file.stored


def test_a_file_that_cannot_be_made_leaves_nothing_behind(path: Path) -> None:
    """Every step of it in turn."""
    sound = FaultyDisk(1_000_000, Fault.IO_ERROR)
    StateFile.create(path, Stored(), disk=sound).close()
    num_steps = sound.steps.index("rename") + 1
    path.unlink()
    for step in range(1, num_steps + 1):
        with pytest.raises((OSError, sqlite3.Error), match=r"disk I/O error|Input/output error"):
            StateFile.create(path, Stored(), disk=FaultyDisk(step, Fault.IO_ERROR))
        assert not list(path.parent.iterdir())


def test_a_state_file_has_a_directory_of_its_own_however_deep(path: Path) -> None:
    deep = path.parent / "a" / "b" / "state.db"
    StateFile.create(deep, Stored(desired=state(1))).close()
    assert stored(deep).desired == state(1)
