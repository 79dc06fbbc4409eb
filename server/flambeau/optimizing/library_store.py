"""Compiled libraries on disk, beside the choices, so that a start finds what was compiled before.

They are code that workers run, so nobody else may write or read them: a file that others could have
changed is not there. Each has a note beside it with its digest, as a damaged library would take
the process down that loads it; one that does not match its note is deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flambeau.own_paths import library_directory
from flambeau.written_aside import written_aside

logger = logging.getLogger(__name__)

_FORMAT: Final = "1"  # rises when libraries are compiled in another way
_PIECE_BYTES: Final = 1 << 20
MAX_BYTES: Final = 4 << 30  # of all libraries together; the oldest go first


class LibraryStore:
    """The libraries of one user, by facts such as archive, machine and form."""

    def __init__(self, directory: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        """A store that may not exist yet.

        Args:
            directory: Where it is; `library_directory()` if None.
            max_bytes: Of all libraries; the one added last stays even if it is larger.
        """
        self._directory = directory or library_directory()
        self._max_bytes = max_bytes

    def find(self, *facts: object) -> Path | None:
        """The library that was added under these facts, whole; None if there is none."""
        path = self._path(facts)
        if not (self._is_private(self._directory) and self._is_private(path)):
            return None
        try:
            is_whole = _digest(path) == _note(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            is_whole = False
        if not is_whole:
            logger.info("a compiled model is damaged and deleted: %s", path)
            self.remove(*facts)
            return None
        return path

    def add(self, library: Path, *facts: object) -> Path:
        """Take a file over; gives where it is from now on.

        Raises:
            OSError: It cannot be kept.
        """
        path = self._path(facts)
        self._make_directory()
        self.remove(*facts)
        with written_aside(_note(path)) as note:
            note.write(_digest(library).encode("ascii"))
        library.chmod(0o600)
        with library.open("rb") as file:
            os.fsync(file.fileno())
        library.replace(path)  # within the folder of `workplace`: in one step
        self._make_room(keep=path)
        return path

    def remove(self, *facts: object) -> None:
        """Forget a library; processes that have loaded it keep it."""
        for path in (self._path(facts), _note(self._path(facts))):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @contextmanager
    def workplace(self) -> Generator[Path]:
        """A private folder on the store's disk for one compilation.

        Raises:
            OSError: There cannot be one.
        """
        self._make_directory()
        with tempfile.TemporaryDirectory(prefix=".compiling-", dir=self._directory) as name:
            yield Path(name)

    def _path(self, facts: tuple[object, ...]) -> Path:
        key = hashlib.sha256("\0".join([_FORMAT, *map(str, facts)]).encode()).hexdigest()
        return self._directory / f"{key}.so"

    def _make_directory(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._is_private(self._directory):
            raise PermissionError(
                f"{self._directory} may be written by others; chmod 700 it, as code is kept there"
            )

    def _is_private(self, path: Path) -> bool:
        """Whether it is there, and nobody else can have put it there."""
        try:
            found = path.lstat()
        except OSError:
            return False
        is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        return is_plain and found.st_uid == os.geteuid() and not found.st_mode & 0o022

    def _make_room(self, *, keep: Path) -> None:
        sizes: dict[Path, os.stat_result] = {}
        for path in self._directory.glob("*.so"):
            with contextlib.suppress(OSError):
                sizes[path] = path.stat()
        total = sum(each.st_size for each in sizes.values())
        for path in sorted(sizes, key=lambda each: sizes[each].st_mtime):
            if total <= self._max_bytes:
                return
            if path != keep:
                total -= sizes[path].st_size
                for each in (path, _note(path)):
                    with contextlib.suppress(OSError):
                        each.unlink(missing_ok=True)


def _note(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()
