"""What is in an archive, whichever of its formats it has: names, sizes and bytes, all checked.

A file's first bytes tell whether it is a zip or a gzip-compressed tar file, whatever its name;
entries are read where they lie. In a directory only links to files inside it are followed.
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
from typing import BinaryIO

from flambeau import tar_entries, zip_entries
from flambeau.errors import ArchiveError, UnknownRuntime
from flambeau.unpack_limits import UnpackLimits, check_names, check_total

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One file or directory of an archive of any format.

    Attributes:
        name: Relative, `/` between parts, none at the end.
        is_dir: Whether it is a directory.
        size_bytes: How many bytes it has.
        pieces: Reads it from the start.
        source: The file itself, in a directory; None in an archive file.
    """

    name: str
    is_dir: bool
    size_bytes: int
    pieces: Callable[[], Iterator[bytes]]
    source: Path | None = None


@contextmanager
def opened(path: Path, limits: UnpackLimits) -> Generator[list[Item]]:
    """The checked content of an archive; any error in the block is told with the archive's path."""
    try:
        if path.is_dir():
            yield _items_of_directory(model_root(path), limits)
        else:
            with path.open("rb") as file:
                if is_gzip(file):
                    with tar_entries.tar_stream(file, limits) as stream:
                        yield _items_of_tar(stream, limits)
                else:
                    yield _items_of_zip(file, limits)
    except UnknownRuntime:
        raise  # clients match its text as it is
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from error
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read or unpacked: {error}") from error


def is_gzip(file: BinaryIO) -> bool:
    """Whether a file starts as gzip files do; leaves it at its start."""
    magic = file.read(len(tar_entries.GZIP_MAGIC))
    file.seek(0)
    return magic == tar_entries.GZIP_MAGIC


def model_root(directory: Path) -> Path:
    """Where an archive directory's files are: in its one sub-directory if it holds nothing else."""
    entries = list(directory.iterdir())
    if len(entries) == 1 and entries[0].name != "MAR-INF" and not entries[0].is_symlink():
        return entries[0] if entries[0].is_dir() else directory
    return directory


def _items_of_zip(file: BinaryIO, limits: UnpackLimits) -> list[Item]:
    return [
        Item(entry.name, entry.is_dir, entry.size_bytes, partial(zip_entries.inflate, file, entry))
        for entry in zip_entries.checked_entries(file, limits)
    ]


def _items_of_tar(stream: tar_entries.TarStream, limits: UnpackLimits) -> list[Item]:
    return [
        Item(e.name, e.is_dir, e.size_bytes, partial(tar_entries.contents, stream, e))
        for e in tar_entries.checked_entries(stream, limits)
    ]


def _items_of_directory(root: Path, limits: UnpackLimits) -> list[Item]:
    items: list[Item] = []
    pending = [root]
    while pending and len(items) <= limits.max_entries:
        for path in sorted(pending.pop().iterdir()):
            if path.name.startswith(".."):
                continue  # Kubernetes keeps what a mounted volume's links lead to in `..data`
            name, status = path.relative_to(root).as_posix(), path.lstat()
            source = path
            if stat.S_ISLNK(status.st_mode):
                source = _target_inside(path, name, root)
                status = source.lstat()
            is_dir = stat.S_ISDIR(status.st_mode)
            if not stat.S_ISREG(status.st_mode) and (not is_dir or source is not path):
                raise ArchiveError(
                    f"entry {name!r} is a link or special file; put a regular file in its place"
                )
            size = 0 if is_dir else status.st_size
            pieces = partial(_pieces_of_file, source, name, size)
            items.append(Item(name, is_dir, size, pieces, source))
            if is_dir:
                pending.append(path)
    check_names([(item.name, item.is_dir) for item in items], limits=limits)
    check_total(sum(item.size_bytes for item in items), limits=limits)
    return items


def _target_inside(link: Path, name: str, root: Path) -> Path:
    """The file that a link leads to, if it is one of the archive's own, as in a download cache."""
    try:
        target: Path | None = link.resolve()
    except RuntimeError:  # how Python tells of a loop, up to 3.12
        target = None
    if target is None or not target.is_relative_to(root.resolve()):
        raise ArchiveError(
            f"entry {name!r} is a link to what is not in the archive; put the file in its place"
        )
    return target


def _pieces_of_file(path: Path, name: str, size_bytes: int) -> Iterator[bytes]:
    num_bytes = 0
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123  # of a descriptor
        while piece := file.read(_PIECE_BYTES):
            num_bytes += len(piece)
            if num_bytes > size_bytes:
                raise ArchiveError(f"entry {name!r} grew while it was read; try again")
            yield piece
