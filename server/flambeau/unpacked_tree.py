"""Writing an archive's files into a directory, and holding what was written against its list.

The digests are of the bytes as they are written, so that what was checked is what is used.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flambeau.archive_content import Item, is_gzip
from flambeau.errors import ArchiveError
from flambeau.file_digests import FileDigest, check_files
from flambeau.plain_container import PlainFile, tgz_pieces, zip_pieces

_COPY_BYTES = 1 << 20
_LINKED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """What was learnt of a file while it was written."""

    digest: FileDigest
    crc: int


def is_linked(item: Item) -> bool:
    """Whether a file of an archive directory is so large that it is linked rather than copied."""
    return item.source is not None and item.size_bytes >= _LINKED_BYTES


def write_tree(
    content: list[Item], root: Path, stopping: threading.Event | None, *, linking: bool
) -> dict[str, Written]:
    """Write all files; returns what was written, except where large files may be linked."""
    written: dict[str, Written] = {}
    root.chmod(0o755)
    for item in content:
        path = root / item.name
        directory = path if item.is_dir else path.parent
        directory.mkdir(parents=True, exist_ok=True)
        if linking and item.source is not None and is_linked(item):
            path.symlink_to(item.source.resolve())
        elif not item.is_dir:
            pieces = unless(stopping, item.pieces())
            with path.open("xb") as file:
                if linking:
                    file.writelines(pieces)
                else:
                    written[item.name] = measured(pieces, write=file.write)
            path.chmod(0o644)
    for path in root.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)  # mkdir's own mode argument is cut by the umask
    return written


def measured(pieces: Iterable[bytes], *, write: Callable[[bytes], object] | None = None) -> Written:
    """What there is to know of a file that is read piece by piece, and written if that is asked."""
    num_bytes, crc, sha256 = 0, 0, hashlib.sha256()
    for piece in pieces:
        if write is not None:
            write(piece)
        sha256.update(piece)
        num_bytes, crc = num_bytes + len(piece), zlib.crc32(piece, crc)
    return Written(FileDigest(num_bytes, sha256.hexdigest()), crc)


def check_written(
    listed: Mapping[str, FileDigest],
    metadata: Mapping[str, bytes | None],
    written: Mapping[str, Written],
) -> None:
    """Hold what was written against the list.

    Args:
        listed: What the archive says it holds.
        metadata: The list itself and its signatures, by their names, as they were judged.
        written: What was written.

    Raises:
        ArchiveError: A file differs, is missing or is too many.
    """
    check_files(listed, {name: file.digest for name, file in written.items()})
    for name, text in metadata.items():
        if text is not None and written[name] != measured([text]):
            raise ArchiveError(f"entry {name!r} changed while it was read; try again")


def check_container(
    path: Path, root: Path, written: Mapping[str, Written], stopping: threading.Event | None
) -> None:
    """A signed archive file is what its signer wrote, to the last bit that holds no content.

    Raises:
        ArchiveError: It is not.
    """
    files = [
        PlainFile(
            name=name,
            size_bytes=file.digest.size_bytes,
            crc=file.crc,
            pieces=partial(pieces_of_file, root / name),
        )
        for name, file in written.items()
    ]
    with path.open("rb") as file:
        expected = tgz_pieces(files) if is_gzip(file) else zip_pieces(files)
        actual = iter(partial(file.read, _COPY_BYTES), b"")
        if measured(unless(stopping, expected)) != measured(unless(stopping, actual)):
            raise ArchiveError(
                "its files are as they were signed, and the bytes around them are not: it was "
                "damaged or packed again; copy it again, or sign it again"
            )


def pieces_of_file(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces of at most 1 MiB."""
    with path.open("rb") as file:
        yield from iter(partial(file.read, _COPY_BYTES), b"")


def copy_writable(content: Path, into: Path) -> None:
    """Give a version files of its own: handlers may write where their archive is unpacked.

    Large files are linked: weights are read, and few write to them. Such a link leads to a file
    that is read-only.

    Raises:
        OSError: There is no room, or another reason.
    """
    into.chmod(0o755)
    for path in sorted(content.rglob("*")):
        target = into / path.relative_to(content)
        if path.is_dir():
            target.mkdir()
            target.chmod(0o755)
        elif path.stat().st_size >= _LINKED_BYTES:
            target.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, target)
            target.chmod(0o644)


def measure_tree(root: Path, *, stopping: threading.Event | None = None) -> dict[str, Written]:
    """Size, SHA-256 and CRC-32 of every file below a directory; reads all of it.

    Raises:
        ArchiveError: There is a link or something else that is no file, or the server stops.
    """
    found: dict[str, Written] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArchiveError(f"entry {name!r} is a link or special file")
        if path.is_file():
            found[name] = measured(unless(stopping, pieces_of_file(path)))
    return found


def unless(stopping: threading.Event | None, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, until the server stops.

    Raises:
        ArchiveError: It does.
    """
    for piece in pieces:
        if stopping is not None and stopping.is_set():
            raise ArchiveError("the server is stopping")
        yield piece
