"""The entries of a gzip-compressed tar file, checked, and their bytes, counted.

torch-model-archiver's `tgz` format puts everything below one top directory, which is dropped here.
The stream is inflated once to list it and once more, in order, to read it; nothing is kept. What
comes out of it is bounded before it is inflated: by the limits, and by the size of the file.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from flambeau.errors import ArchiveError
from flambeau.manifest import MANIFEST_PATH
from flambeau.unpack_limits import UnpackLimits, check_names, check_total, refusal

GZIP_MAGIC = b"\x1f\x8b"

_CHUNK_BYTES = 1 << 20
_RATIO_APPLIES_BYTES = 10 << 20  # a small archive of zeros is no threat, and configs do repeat
_MAX_HEADER_BYTES = 32 << 10  # names, times and other attributes of one entry
_BLOCK_BYTES = 512
_DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TarEntry:
    """One entry that passed every check short of reading it.

    Attributes:
        name: Relative, `/` between parts, without the archive's top directory.
        is_dir: Whether it is a directory; directories have no data.
        data_at: Offset of its bytes in the inflated stream.
        size_bytes: Their number.
    """

    name: str
    is_dir: bool
    data_at: int
    size_bytes: int


class TarStream:
    """The inflated stream, seen by `tarfile`: reads are short and the end is bounded."""

    def __init__(self, file: BinaryIO, limits: UnpackLimits) -> None:
        stored_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._inflated = gzip.GzipFile(fileobj=file, mode="rb")
        # headers and padding come on top of the files
        most = limits.max_total_bytes + limits.max_entries * (_MAX_HEADER_BYTES + _BLOCK_BYTES)
        self._max_bytes = min(most, _RATIO_APPLIES_BYTES + limits.max_ratio * stored_bytes)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK_BYTES:
            raise ArchiveError(f"a header in it claims {size} bytes; build the archive again")
        self._check_end(self.tell() + size)
        return self._inflated.read(size)

    def seek(self, offset: int) -> int:
        self._check_end(offset)
        return self._inflated.seek(offset)

    def tell(self) -> int:
        return self._inflated.tell()

    def close(self) -> None:
        self._inflated.close()

    def _check_end(self, offset: int) -> None:
        if offset > self._max_bytes:
            raise ArchiveError(
                f"it inflates to more than {self._max_bytes} bytes, which is too much for its "
                "size; build the archive again, or raise the limits"
            )


@contextmanager
def tar_stream(file: BinaryIO, limits: UnpackLimits) -> Generator[TarStream]:
    """The inflated stream of a gzip file; damage found in the block is told as such.

    Raises:
        ArchiveError: Something in the stream is damaged, or it is larger than the limits allow.
    """
    stream = TarStream(file, limits)
    try:
        yield stream
    except _DAMAGED as error:
        raise ArchiveError(
            f"not a sound tar.gz file ({error}); copy or build the archive again"
        ) from error
    finally:
        stream.close()


def checked_entries(stream: TarStream, limits: UnpackLimits) -> list[TarEntry]:
    """The entries of a tar file, in its order, after all checks.

    Raises:
        ArchiveError: Unsafe to unpack, or not a tar file.
    """
    members: list[tarfile.TarInfo] = []
    reader = tarfile.open(fileobj=cast("BinaryIO", _Headers(stream)), mode="r:")  # noqa: SIM115  # it owns nothing that needs closing
    while (member := reader.next()) is not None:
        _check_member(member, after=members[-1].offset if members else -1)
        members.append(member)
        if len(members) > limits.max_entries:
            raise ArchiveError(
                f"it has more than {limits.max_entries} entries, which is the most that is "
                "unpacked, so put many small files into one"
            )
    _check_rest(stream, reader.offset)
    raw = [(member.name, member.isdir()) for member in members if member.name != "."]
    kept = [member for member in members if member.name != "."]
    entries = [
        TarEntry(name=name, is_dir=m.isdir(), data_at=m.offset_data, size_bytes=m.size)
        for m, name in zip(kept, _without_top(raw, limits), strict=True)
        if name
    ]
    check_names([(entry.name, entry.is_dir) for entry in entries], limits=limits)
    check_total(sum(entry.size_bytes for entry in entries), limits=limits)
    return entries


def contents(stream: TarStream, entry: TarEntry) -> Iterator[bytes]:
    """The entry's bytes in pieces of at most 1 MiB; quick when entries are read in order.

    Raises:
        ArchiveError: The stream ends early.
    """
    at, left = entry.data_at, entry.size_bytes
    while left:
        stream.seek(at)  # the caller may read other entries between two pieces
        piece = stream.read(min(left, _CHUNK_BYTES))
        if not piece:
            raise refusal(entry.name, "ends early")
        at, left = at + len(piece), left - len(piece)
        yield piece


class _Headers:
    """What `tarfile` may do with the stream: seek, and read headers of bearable size."""

    def __init__(self, stream: TarStream) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise ArchiveError(f"a header in it claims {size} bytes; build the archive again")
        return self._stream.read(size)


def _check_member(member: tarfile.TarInfo, *, after: int) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise refusal(member.name, "is a link or special file; only regular files are unpacked")
    if member.mode & 0o7000:
        raise refusal(member.name, "has a setuid, setgid or sticky bit")
    if member.size < 0 or member.offset <= after or (member.isdir() and member.size):
        raise refusal(member.name, f"claims {member.size} bytes")


def _check_rest(stream: TarStream, offset: int) -> None:
    """Behind the last entry there are zeros, and a checksum that fits, or a header was damaged."""
    stream.seek(offset)
    while piece := stream.read(_CHUNK_BYTES):
        if piece.strip(b"\0"):
            raise ArchiveError(
                "an entry's header is damaged, or other bytes follow the archive; copy or build "
                "it again"
            )


def _without_top(named: list[tuple[str, bool]], limits: UnpackLimits) -> list[str]:
    """Names without the first part, as TorchServe drops it; empty for the top directory itself.

    Nothing is dropped when the manifest is where it belongs. `tar -C model -czf model.tar.gz .`
    writes `./handler.py`: there the dot is the first part, unless all of it is in one directory.
    """
    dotted = all(name.startswith("./") for name, _ in named)
    named = [(name.removeprefix("./"), is_dir) for name, is_dir in named]
    names = check_names(named, limits=limits)
    tops = {name.partition("/")[0] for name in names}
    in_one_directory = len(tops) == 1 and any("/" in name for name in names)
    if MANIFEST_PATH in names or (dotted and not in_one_directory):
        return names
    return [name.partition("/")[2] if is_dir or "/" in name else name for name, is_dir in named]
