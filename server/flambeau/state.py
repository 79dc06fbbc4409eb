"""The file that remembers what is served: SQLite, with a write-ahead log, written by one thread.

Each commit writes all of the desired state and one line of the log of operations, in one
transaction that is on the disk when `commit` returns. After it the whole content is in the main
file, so that a copy of that file is a backup. A checksum of ours covers what SQLite has none for.

What is done with a file that is damaged is in `state_recovery.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import struct
import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import msgspec

from flambeau.desired import Desired, ModelRecord, VersionRecord
from flambeau.disk import DISK, Disk, SQLValue
from flambeau.errors import BadParameter

_log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x464C4D42  # "FLMB"
_MAX_OPERATIONS: Final = 1000  # lines that the log of operations keeps

# <https://www.sqlite.org/fileformat2.html>, "The Database Header"
_HEADER: Final = struct.Struct(">16sH6B12I")
_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"
_WAL_FORMAT: Final = 2  # of the read and write versions

_TABLES: Final = {
    "meta": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "models": "name TEXT PRIMARY KEY, default_version TEXT NOT NULL, is_chosen INTEGER NOT NULL",
    "versions": """model TEXT NOT NULL, place INTEGER NOT NULL, version TEXT NOT NULL,
        record TEXT NOT NULL, PRIMARY KEY (model, place)""",
    "removed": "model TEXT NOT NULL, url TEXT NOT NULL, PRIMARY KEY (model, url)",
    "operations": """generation INTEGER PRIMARY KEY, at TEXT NOT NULL, operation TEXT NOT NULL,
        model TEXT NOT NULL, version TEXT NOT NULL""",
}


class StateDamaged(Exception):  # noqa: N818  # never leaves the recovery
    """The file is not what a server of this version has written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One line of the log of operations.

    Attributes:
        name: What was done: register, deploy, scale, set-default, unregister, start.
        model: To which model; empty for all.
        version: To which version; empty for all.
    """

    name: str
    model: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What the file holds.

    Attributes:
        generation: Rises with each commit.
        desired: What is to be served.
        lost: Why it may be less than once was served; empty when nothing is missing.
        instance: Tells this file from all others.
    """

    generation: int = 0
    desired: Desired = field(default_factory=Desired)
    lost: str = ""
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, hex."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class StateFile:
    """An open file; only the thread that opened it may use it. `create` or `open` makes one.

    Attributes:
        stored: What is on the disk.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, stored: Stored, *, disk: Disk
    ) -> None:
        # for the life of the server
        self.path = path
        self._disk = disk
        # until a commit fails
        self._connection: sqlite3.Connection | None = connection
        # changes with each commit
        self.stored = stored

    @classmethod
    def create(cls, path: Path, stored: Stored, *, disk: Disk = DISK) -> StateFile:
        """A new file, which appears complete or not at all.

        Raises:
            OSError, sqlite3.Error: It cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with contextlib.closing(disk.connect(aside)) as connection:
                disk.execute(connection, "PRAGMA journal_mode = WAL")
                disk.execute(connection, "PRAGMA synchronous = FULL")
                disk.execute(connection, "BEGIN IMMEDIATE")
                disk.execute(connection, f"PRAGMA application_id = {_APPLICATION_ID}")
                disk.execute(connection, f"PRAGMA user_version = {SCHEMA_VERSION}")
                for table, columns in _TABLES.items():
                    disk.execute(connection, f"CREATE TABLE {table} ({columns})")
                _write(connection, stored, Operation(name="create"), disk=disk)
                disk.execute(connection, "COMMIT")
                _checkpoint(connection, disk=disk)
            for companion in companions(path):  # another file's log must not be taken for ours
                disk.unlink(companion)
            disk.rename(aside, path)
            disk.sync_directory(path.parent)
        except BaseException:
            for left in (aside, *companions(aside)):
                left.unlink(missing_ok=True)
            raise
        return cls.open(path, disk=disk)

    @classmethod
    def open(cls, path: Path, *, disk: Disk = DISK) -> StateFile:
        """Open a file that is there, and look whether it is sound.

        Raises:
            FileNotFoundError: There is none.
            StateDamaged: It is none of this version's files, or not what was written.
            OSError, sqlite3.Error: It cannot be read or written at the moment.
        """
        _check_header(disk.read(path))
        connection = disk.connect(path)
        try:
            stored = _read_sound(connection, disk=disk)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, stored, disk=disk)

    def commit(self, desired: Desired, operation: Operation) -> None:
        """Write this state down; when this returns it outlives any crash.

        Raises:
            OSError, sqlite3.Error: It is not written, and what was there before holds.
        """
        connection = self._settled()
        stored = replace(self.stored, generation=self.stored.generation + 1, desired=desired)
        try:
            self._write(connection, stored, operation)
        except BaseException:
            # nobody knows whether its last transaction is on the disk
            connection.close()
            self._connection = None
            with contextlib.suppress(OSError, sqlite3.Error, StateDamaged):
                self._settled()  # else before the next commit
            raise
        self.stored = stored

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _write(self, connection: sqlite3.Connection, stored: Stored, operation: Operation) -> None:
        self._disk.execute(connection, "BEGIN IMMEDIATE")
        _write(connection, stored, operation, disk=self._disk)
        self._disk.execute(connection, "COMMIT")
        try:
            _checkpoint(connection, disk=self._disk)
        except (OSError, sqlite3.Error) as error:
            _log.warning("%s keeps its log for now: %s", self.path, error)

    def _settled(self) -> sqlite3.Connection:
        """A connection to a file that holds `stored`; what a failed commit left is overwritten."""
        if self._connection is not None:
            return self._connection
        connection = self._disk.connect(self.path)
        try:
            there = _read_sound(connection, disk=self._disk)
            if there != self.stored:
                kept = replace(self.stored, generation=there.generation + 1)
                self._write(connection, kept, Operation(name="undo"))
                self.stored = kept
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection


def companions(path: Path) -> tuple[Path, Path]:
    """SQLite's files beside a database: its log, and the log's index."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _check_header(content: bytes) -> None:
    """Look at what SQLite would take as a wish: another version of its format, other settings."""
    if len(content) < _HEADER_BYTES:
        raise StateDamaged(f"it has {len(content)} bytes, fewer than its header")
    fields = _HEADER.unpack(content[: _HEADER.size])
    if fields[0] != _MAGIC:
        raise StateDamaged("it is no SQLite database")
    if (fields[2], fields[3]) != (_WAL_FORMAT, _WAL_FORMAT):
        raise StateDamaged("its header is damaged")
    schema, application = fields[-3], fields[-1]
    if application != _APPLICATION_ID:
        raise StateDamaged("another program has written it")
    if schema != SCHEMA_VERSION:
        raise StateDamaged(f"its schema is version {schema}, this server's {SCHEMA_VERSION}")


def _read_sound(connection: sqlite3.Connection, *, disk: Disk) -> Stored:
    """What the file holds, checked by SQLite and by us."""
    try:
        for pragma in ("busy_timeout = 5000", "synchronous = FULL", "cell_size_check = ON"):
            disk.execute(connection, f"PRAGMA {pragma}")
        (outcome,) = disk.execute(connection, "PRAGMA quick_check(1)")[0]
        if outcome != "ok":
            raise StateDamaged(f"SQLite finds: {outcome}")
        stored = _read(connection, disk=disk)
        _checkpoint(connection, disk=disk)
    except sqlite3.OperationalError as error:
        if _is_disk_s(error):
            raise
        raise StateDamaged(str(error)) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise StateDamaged(str(error)) from error
    return stored


def _is_disk_s(error: sqlite3.OperationalError) -> bool:
    """Whether an error tells of the disk, or of another program, rather than of the content."""
    text = str(error)
    signs = ("locked", "unable to open", "disk is full", "readonly", "disk I/O", "interrupted")
    return any(sign in text for sign in signs)


def _read(connection: sqlite3.Connection, *, disk: Disk) -> Stored:
    meta = dict(disk.execute(connection, "SELECT key, value FROM meta"))
    rows = disk.execute(
        connection, "SELECT model, version, record FROM versions ORDER BY model, place"
    )
    versions: dict[str, list[VersionRecord]] = {}
    try:
        for model, number, text in rows:
            record = msgspec.json.decode(str(text), type=VersionRecord)
            if (record.model, record.version) != (model, number):
                raise StateDamaged(f"the record of {model} {number} is another one's")
            versions.setdefault(record.model, []).append(record)
        models = {
            str(name): ModelRecord(
                default=str(default),
                is_chosen=bool(is_chosen),
                versions=tuple(versions.pop(str(name), ())),
            )
            for name, default, is_chosen in disk.execute(
                connection, "SELECT name, default_version, is_chosen FROM models ORDER BY name"
            )
        }
        removed = disk.execute(connection, "SELECT model, url FROM removed")
        stored = Stored(
            generation=int(str(meta["generation"])),
            desired=Desired(
                models=models, removed=frozenset((str(model), str(url)) for model, url in removed)
            ),
            lost=str(meta["lost"]),
            instance=str(meta["instance"]),
        )
        digest = meta["digest"]
    except (msgspec.MsgspecError, BadParameter, KeyError, ValueError) as error:
        raise StateDamaged(f"a record cannot be read: {error}") from error
    if versions or stored.digest != digest:
        raise StateDamaged("its content does not have the checksum it was written with")
    return stored


def _write(
    connection: sqlite3.Connection, stored: Stored, operation: Operation, *, disk: Disk
) -> None:
    """Put all of it in the place of what is there, inside a transaction."""

    def run(sql: str, *values: SQLValue) -> None:
        disk.execute(connection, sql, values)

    for table in ("versions", "models", "removed"):
        run(f"DELETE FROM {table}")  # noqa: S608  # names of ours
    for name, entry in stored.desired.models.items():
        run("INSERT INTO models VALUES (?, ?, ?)", name, entry.default, int(entry.is_chosen))
        for place, record in enumerate(entry.versions):
            text = msgspec.json.encode(record).decode()
            run("INSERT INTO versions VALUES (?, ?, ?, ?)", name, place, record.version, text)
    for model, url in stored.desired.removed:
        run("INSERT INTO removed VALUES (?, ?)", model, url)
    for key, value in (
        ("generation", str(stored.generation)),
        ("lost", stored.lost),
        ("instance", stored.instance),
        ("digest", stored.digest),
    ):
        run("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    run(
        "INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?, ?)",
        *(stored.generation, now, operation.name, operation.model, operation.version),
    )
    run("DELETE FROM operations WHERE generation <= ?", stored.generation - _MAX_OPERATIONS)


def _checkpoint(connection: sqlite3.Connection, *, disk: Disk) -> None:
    """Bring the log into the main file."""
    disk.execute(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
