"""What is in an archive, whichever of the two formats it has: names, sizes and bytes, all checked.

A zip file's entries are read where they lie; a directory's files are read without following links.
`archive.py` writes and unpacks on top of this.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flambeau.errors import ArchiveError
from flambeau.unpack_limits import UnpackLimits, check_names, check_total
from flambeau.zip_entries import checked_entries, inflate

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One file or directory of an archive of either format; `pieces` reads it from the start."""

    name: str
    is_dir: bool
    size_bytes: int
    pieces: Callable[[], Iterator[bytes]]


@contextmanager
def opened(path: Path, limits: UnpackLimits) -> Generator[list[Item]]:
    """The checked content of an archive; any error in the block is told with the archive's path."""
    try:
        if path.is_dir():
            yield _items_of_directory(path, limits)
        else:
            with path.open("rb") as file:
                yield [
                    Item(entry.name, entry.is_dir, entry.size_bytes, partial(inflate, file, entry))
                    for entry in checked_entries(file, limits)
                ]
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from error
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read or unpacked: {error}") from error


def _items_of_directory(root: Path, limits: UnpackLimits) -> list[Item]:
    items: list[Item] = []
    pending = [root]
    while pending and len(items) <= limits.max_entries:
        for path in sorted(pending.pop().iterdir()):
            name, status = path.relative_to(root).as_posix(), path.lstat()
            is_dir = stat.S_ISDIR(status.st_mode)
            if not is_dir and not stat.S_ISREG(status.st_mode):
                raise ArchiveError(
                    f"entry {name!r} is a link or special file; put a regular file in its place"
                )
            size = 0 if is_dir else status.st_size
            items.append(Item(name, is_dir, size, partial(_pieces_of_file, path, name, size)))
            if is_dir:
                pending.append(path)
    check_names([(item.name, item.is_dir) for item in items], limits=limits)
    check_total(sum(item.size_bytes for item in items), limits=limits)
    return items


def _pieces_of_file(path: Path, name: str, size_bytes: int) -> Iterator[bytes]:
    num_bytes = 0
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123  # of a descriptor
        while piece := file.read(_PIECE_BYTES):
            num_bytes += len(piece)
            if num_bytes > size_bytes:
                raise ArchiveError(f"entry {name!r} grew while it was read; try again")
            yield piece
