"""The one form of a signed archive file, so that each of its bytes is told by what it holds.

Zip and tar headers have room for times, owners and remarks, and a deflated stream has unused bits:
a change there alters no file, so no list of files tells of it. A signed archive is therefore the
bytes that are written here and no others: files sorted by name, nothing deflated, every free field
the same. Any program that reads zip or tar.gz files reads these.
"""

from __future__ import annotations

import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_ZIP64_FROM = 0xFFFFFFFF  # sizes and offsets from here on are in the zip64 fields
_IN_ZIP64 = 0xFFFFFFFF
_VERSION, _ZIP64_VERSION = 20, 45  # of the format, that a reader needs
_UNIX = 3 << 8
_UTF8_NAME = 0x800
_FIRST_DATE = 33  # 1 January 1980
_FILE_MODE = (stat.S_IFREG | 0o644) << 16
# APPNOTE.TXT 4.3.7, 4.3.12, 4.3.14, 4.3.15, 4.3.16
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")

_TOP = "model"  # the directory that tar files have everything in, and readers drop
_BLOCK_BYTES = 512
_GZIP_HEADER = b"\x1f\x8b\x08\x00\0\0\0\0\x00\xff"  # RFC 1952: deflate, no time, unknown system
_MAX_STORED_BYTES = 65_535  # RFC 1951, 3.2.4


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainFile:
    """One file to be packed.

    Attributes:
        name: Its name in the archive.
        size_bytes: Its size.
        crc: CRC-32 of its bytes.
        pieces: Reads it from the start.
    """

    name: str
    size_bytes: int
    crc: int
    pieces: Callable[[], Iterator[bytes]]


def zip_pieces(files: Iterable[PlainFile]) -> Iterator[bytes]:
    """A zip file of these files, sorted by name and stored."""
    at, directory = 0, b""
    ordered = _sorted(files)
    for file in ordered:
        local = _local_header(file)
        directory += _central_header(file, at=at)
        yield local
        yield from file.pieces()
        at += len(local) + file.size_bytes
    yield directory
    count, size = len(ordered), len(directory)
    if at >= _ZIP64_FROM:
        versions = _UNIX | _ZIP64_VERSION, _ZIP64_VERSION
        yield _END64.pack(b"PK\x06\x06", 44, *versions, 0, 0, count, count, size, at)
        yield _LOCATOR64.pack(b"PK\x06\x07", 0, at + size, 1)
    yield _END.pack(b"PK\x05\x06", 0, 0, count, count, size, _short(at), 0)


def tgz_pieces(files: Iterable[PlainFile]) -> Iterator[bytes]:
    """A tar.gz file of these files, sorted by name and stored, below one directory."""
    return _gzipped(_tar_pieces(_sorted(files)))


def _sorted(files: Iterable[PlainFile]) -> Sequence[PlainFile]:
    return sorted(files, key=lambda file: file.name)


def _short(number: int) -> int:
    return _IN_ZIP64 if number >= _ZIP64_FROM else number


def _flags(name: str) -> int:
    return 0 if name.isascii() else _UTF8_NAME


def _local_header(file: PlainFile) -> bytes:
    name, size = file.name.encode(), file.size_bytes
    extra = struct.pack("<HHQQ", 1, 16, size, size) if size >= _ZIP64_FROM else b""
    sizes = _short(size), _short(size)
    lengths = len(name), len(extra)
    version = _ZIP64_VERSION if extra else _VERSION
    time = 0, _FIRST_DATE
    head = _LOCAL.pack(
        b"PK\x03\x04", version, _flags(file.name), 0, *time, file.crc, *sizes, *lengths
    )
    return head + name + extra


def _central_header(file: PlainFile, *, at: int) -> bytes:
    name, size = file.name.encode(), file.size_bytes
    large = [number for number in (size, size, at) if number >= _ZIP64_FROM]
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version = _ZIP64_VERSION if extra else _VERSION
    versions = _UNIX | version, version
    time, sizes, lengths = (0, _FIRST_DATE), (_short(size), _short(size)), (len(name), len(extra))
    head = _CENTRAL.pack(
        *(b"PK\x01\x02", *versions, _flags(file.name), 0, *time, file.crc, *sizes, *lengths),
        *(0, 0, 0, _FILE_MODE, _short(at)),
    )
    return head + name + extra


def _tar_pieces(files: Sequence[PlainFile]) -> Iterator[bytes]:
    for file in files:
        info = tarfile.TarInfo(f"{_TOP}/{file.name}")
        info.size = file.size_bytes
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from file.pieces()
        yield b"\0" * (-file.size_bytes % _BLOCK_BYTES)
    yield b"\0" * (2 * _BLOCK_BYTES)


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A gzip file with nothing deflated, in blocks of the same size whoever writes them."""
    yield _GZIP_HEADER
    crc, num_bytes, waiting = 0, 0, bytearray()
    for piece in pieces:
        crc, num_bytes = zlib.crc32(piece, crc), num_bytes + len(piece)
        waiting += piece
        at = 0
        while len(waiting) - at > _MAX_STORED_BYTES:
            yield _stored(waiting[at : at + _MAX_STORED_BYTES], is_last=False)
            at += _MAX_STORED_BYTES
        del waiting[:at]
    yield _stored(waiting, is_last=True)
    yield struct.pack("<II", crc, num_bytes & 0xFFFFFFFF)


def _stored(block: bytes | bytearray, *, is_last: bool) -> bytes:
    return struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF) + block
