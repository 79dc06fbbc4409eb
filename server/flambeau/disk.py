"""The disk as an argument: each step that can fail on it, and so can be made to fail in a test.

Whoever writes what must survive a crash takes a `Disk` and does everything through it. A test hands
in `flambeau.testing.FaultyDisk`, which fails the n-th step or ends the process there.
"""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_T = TypeVar("_T")

SQLValue: TypeAlias = str | int | bytes | None


class Disk:
    """The real one; each method is one step."""

    def at(self, step: str, work: Callable[[], _T]) -> _T:  # noqa: ARG002  # for those who fail
        """Do one step; what a test replaces.

        Args:
            step: Its name: open, write, fsync, rename, unlink, dir fsync or sqlite.
            work: Does it.
        """
        return work()

    def create(self, path: Path, *, mode: int = 0o666) -> BinaryIO:
        """A new file to write and read; it must not be there, not even as a link.

        Args:
            path: Its name.
            mode: Who may use it, less the umask.
        """
        return io.BufferedRandom(self.at("open", lambda: _File(path, mode, self)))

    def fsync(self, file: BinaryIO) -> None:
        """Put what was written on the disk, and wait for it."""
        file.flush()
        self.at("fsync", lambda: os.fsync(file.fileno()))

    def read(self, path: Path) -> bytes:
        """A file's whole content."""
        return self.at("open", path.read_bytes)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in the place of what has it."""
        self.at("rename", lambda: source.replace(target))

    def unlink(self, path: Path) -> None:
        """Remove a file, if it is there."""
        self.at("unlink", lambda: path.unlink(missing_ok=True))

    def sync_directory(self, path: Path) -> None:
        """Put a directory's names on the disk; until then a crash may forget a rename."""
        self.at("dir fsync", lambda: _sync_directory(path))

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open a database, without transactions of its own making."""
        return self.at("open", lambda: sqlite3.connect(path, isolation_level=None, timeout=5.0))

    def execute(
        self, connection: sqlite3.Connection, sql: str, values: Sequence[SQLValue] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement; returns its rows."""
        return self.at("sqlite", lambda: connection.execute(sql, values).fetchall())


DISK = Disk()
"""The one that everybody takes who is given none."""


class _File(io.FileIO):
    """A new file, each write to which is a step."""

    def __init__(self, path: Path, mode: int, disk: Disk) -> None:
        super().__init__(path, "xb+", opener=lambda name, flags: os.open(name, flags, mode))
        self._disk = disk

    def write(self, data: ReadableBuffer, /) -> int:
        return self._disk.at("write", lambda: super(_File, self).write(data))


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
