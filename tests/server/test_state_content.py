"""What a state file holds comes back, and what it cannot be is told with the reason."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from flambeau.desired import Desired, VersionRecord
from flambeau.disk import Disk, SQLValue
from flambeau.model_settings import ModelSettings
from flambeau.state import Operation, StateDamaged, StateFile, Stored
from tests.server.state_writer import memory_directory, state

SETTINGS = ModelSettings()


@pytest.fixture
def tmp_path() -> Generator[Path]:
    with memory_directory() as directory:
        yield directory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    StateFile.create(path, Stored(generation=3, desired=state(1))).close()
    return path


def record(model: str, version: str, *, at_startup: bool = False) -> VersionRecord:
    return VersionRecord(
        model=model,
        version=version,
        url=f"{model}-{version}.mar",
        digest="d" * 64,
        settings=SETTINGS,
        handler="h.py",
        at_startup=at_startup,
    )


def desired(*names: str) -> Desired:
    """Models with two versions each, the newer of which is chosen; and one that was removed."""
    made = Desired()
    for name in names:
        made = made.with_version(record(name, "2.0")).with_version(record(name, "1.0"))
        made = made.with_default(name, "1.0")
        made = made.with_version(record(name, "3.0", at_startup=True)).without(name, "3.0")
    return made.with_version(record("z", "1.0"))


def damage_of(path: Path) -> str:
    with pytest.raises(StateDamaged) as caught:
        StateFile.open(path)
    return str(caught.value)


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_all_that_is_desired_comes_back(tmp_path: Path) -> None:
    stored = Stored(generation=7, desired=desired("b", "a"), lost="why", instance="i")
    assert stored.desired.removed == {("a", "a-3.0.mar"), ("b", "b-3.0.mar")}
    with closing(StateFile.create(tmp_path / "state.db", stored)) as file:
        assert file.stored == stored
        file.commit(desired("c"), Operation(name="register"))
    with closing(StateFile.open(tmp_path / "state.db")) as file:
        assert file.stored.desired == desired("c")
        assert [each.version for each in file.stored.desired.models["c"].versions] == ["2.0", "1.0"]
        assert file.stored.desired.models["c"].is_chosen
        assert (file.stored.generation, file.stored.lost, file.stored.instance) == (8, "why", "i")


def test_equal_states_have_one_digest_in_whichever_order_they_were_made() -> None:
    one, other = (
        Stored(desired=desired("a", "b"), instance="i"),
        Stored(desired=desired("b", "a"), instance="i"),
    )
    assert list(one.desired.models) != list(other.desired.models)
    assert one.digest == other.digest
    assert one.digest != Stored(desired=desired("a"), instance="i").digest


def test_the_log_tells_what_was_done_when_and_to_what(path: Path) -> None:
    with closing(StateFile.open(path)) as file:
        file.commit(state(2), Operation(name="register", model="m", version="2"))
        file.commit(state(2), Operation(name="start"))
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT * FROM operations ORDER BY generation").fetchall()
    assert [(row[0], *row[2:]) for row in rows] == [
        (3, "create", "", ""),
        (4, "register", "m", "2"),
        (5, "start", "", ""),
    ]
    for row in rows:
        age = datetime.now(timezone.utc) - datetime.fromisoformat(row[1])
        assert timedelta(0) <= age < timedelta(minutes=1)
        assert len(row[1]) == len("2026-01-01T00:00:00.000+00:00")


def test_a_new_file_takes_the_place_of_one_with_a_log(path: Path) -> None:
    """Whose log would be taken for the new one's."""
    left = path.with_name("state.db-wal"), path.with_name("state.db-shm")
    for companion in left:
        companion.write_bytes(b"left")
    with closing(StateFile.create(path, Stored(desired=state(2)))) as file:
        assert file.stored.desired == state(2)
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE versions SET version = '9'", "the record of m 9 is another one's"),
        ("UPDATE versions SET model = 'n'", "the record of n 1 is another one's"),
        ("UPDATE versions SET record = '{}'", "a record cannot be read: Object missing required"),
        ("UPDATE meta SET value = 'x' WHERE key = 'generation'", "a record cannot be read: "),
        ("DELETE FROM meta WHERE key = 'digest'", "a record cannot be read: 'digest'"),
        ("DELETE FROM meta WHERE key = 'lost'", "a record cannot be read: 'lost'"),
        ("DELETE FROM models", "its content does not have the checksum it was written with"),
        ("DELETE FROM versions", "its content does not have the checksum"),
        ("UPDATE models SET is_chosen = 1", "its content does not have the checksum"),
        ("UPDATE models SET default_version = '2'", "its content does not have the checksum"),
        ("INSERT INTO models VALUES ('n', '1', 0)", "its content does not have the checksum"),
        ("INSERT INTO removed VALUES ('m', 'u')", "its content does not have the checksum"),
        ("UPDATE meta SET value = 'x' WHERE key = 'instance'", "does not have the checksum"),
        ("UPDATE meta SET value = CAST(x'ff' AS TEXT)", "Could not decode to UTF-8"),
        ("DROP TABLE removed", "no such table: removed"),
    ],
)
def test_content_that_was_not_written_so_is_told(path: Path, sql: str, says: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql)
    assert says in damage_of(path)


@pytest.mark.parametrize(
    ("at", "content", "says"),
    [
        (0, b"sqlite", "it is no SQLite database"),
        (18, b"\1", "its header is damaged"),
        (19, b"\1", "its header is damaged"),
        (60, b"\0\0\0\2", "its schema is version 2, this server's 1"),
        (68, b"\0\0\0\0", "another program has written it"),
        (36, b"\0\0\0\3", "SQLite finds: *** in database main ***"),
    ],
)
def test_a_header_that_was_not_written_so_is_told(
    path: Path, at: int, content: bytes, says: str
) -> None:
    overwrite(path, at, content)
    assert damage_of(path).startswith(says)


def test_a_file_shorter_than_its_header_is_told_with_its_size(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:99])
    assert damage_of(path) == "it has 99 bytes, fewer than its header"
    path.write_bytes(content[:100])
    assert "header" not in damage_of(path)


class Saying(Disk):
    """A disk whose every statement fails with SQLite's words."""

    def __init__(self, error: sqlite3.Error) -> None:
        self._error = error

    def execute(
        self,
        connection: sqlite3.Connection,
        sql: str,
        values: Sequence[SQLValue] = (),
    ) -> list[tuple[Any, ...]]:
        raise self._error


@pytest.mark.parametrize(
    "text",
    [
        "database is locked",
        "unable to open database file",
        "database or disk is full",
        "attempt to write a readonly database",
        "disk I/O error",
        "interrupted",
    ],
)
def test_what_passes_or_an_operator_can_mend_is_no_damage(path: Path, text: str) -> None:
    with pytest.raises(sqlite3.OperationalError, match=text):
        StateFile.open(path, disk=Saying(sqlite3.OperationalError(text)))


@pytest.mark.parametrize("kind", [sqlite3.OperationalError, sqlite3.DatabaseError])
def test_what_sqlite_says_of_the_content_is_damage(path: Path, kind: type[sqlite3.Error]) -> None:
    with pytest.raises(StateDamaged, match=r"^malformed database schema$"):
        StateFile.open(path, disk=Saying(kind("malformed database schema")))
