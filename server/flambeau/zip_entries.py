"""The entries of a zip file, checked, and their bytes, counted.

The central directory is read by `zipfile`; what it promises is then held against the limits, and
against each local header. `inflate` counts the bytes that really come out, so an entry that lied
about its size is found while it is read. Nothing here writes.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from flambeau.errors import ArchiveError
from flambeau.unpack_limits import UnpackLimits, check_names, check_total, refusal

_CHUNK_BYTES = 1 << 20
# a file of zeros this small is no threat: exported programs keep example inputs, often of one value
_RATIO_APPLIES_BYTES = 8 << 20
_TOTAL_RATIO_APPLIES_BYTES = 256 << 20  # nor are many of them together

# APPNOTE.TXT 4.3.7 (local file header) and 4.3.16 (end of central directory record)
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_END_RECORD = struct.Struct("<4sHHHHIIH")
_END_SIGNATURE = b"PK\x05\x06"
_ENCRYPTED = 0x1 | 0x40
_SIZES_FOLLOW_DATA = 0x8
_UTF8_NAME = 0x800
_IN_ZIP64_FIELD = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipEntry:
    """One entry that passed every check short of reading it.

    Attributes:
        name: Relative, `/` between parts, none at the end.
        is_dir: Whether it is a directory; directories have no data.
        data_at: Offset of the stored bytes in the file.
        stored_bytes: Their number.
        size_bytes: How many bytes they inflate to, as promised.
        crc: CRC-32 of the inflated bytes, as promised.
        is_deflated: Deflated, or else stored as they are.
    """

    name: str
    is_dir: bool
    data_at: int
    stored_bytes: int
    size_bytes: int
    crc: int
    is_deflated: bool


def checked_entries(file: BinaryIO, limits: UnpackLimits) -> list[ZipEntry]:
    """The entries of a zip file, in its order, after all checks that need no inflating.

    Raises:
        ArchiveError: Not a zip file, or one that is unsafe to unpack.
    """
    num_entries = _check_end_record(file, limits)
    try:
        with zipfile.ZipFile(file) as opened:
            infos = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise _damaged(str(error)) from error
    if len(infos) != num_entries:
        raise _damaged(f"{len(infos)} of {num_entries} entries are in it")
    names = check_names(((info.orig_filename, _is_dir(info)) for info in infos), limits=limits)
    entries = [_checked_entry(file, i, n, limits) for i, n in zip(infos, names, strict=True)]
    total = sum(entry.size_bytes for entry in entries)
    check_total(total, limits=limits)
    stored = sum(entry.stored_bytes for entry in entries)
    if total > _TOTAL_RATIO_APPLIES_BYTES + limits.max_ratio * stored:
        raise ArchiveError(
            f"it inflates {stored} bytes to {total}, more than {limits.max_ratio} times; build the "
            "archive again without what repeats itself"
        )
    _check_layout(infos, entries)
    return entries


def inflate(file: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    """The entry's bytes in pieces of at most 1 MiB.

    Raises:
        ArchiveError: They are more, fewer or other than the entry promised; raised before more than
            the promised number was given.
    """
    num_bytes = 0
    crc = 0
    pieces = _deflated(file, entry) if entry.is_deflated else _stored(file, entry)
    for piece in pieces:
        num_bytes += len(piece)
        if num_bytes > entry.size_bytes:
            raise refusal(entry.name, f"holds more than the {entry.size_bytes} bytes it declares")
        crc = zlib.crc32(piece, crc)
        yield piece
    if num_bytes != entry.size_bytes:
        raise refusal(entry.name, f"holds {num_bytes} bytes but declares {entry.size_bytes}")
    if crc != entry.crc:
        raise refusal(entry.name, "does not match its CRC-32 checksum, so it is damaged")


def _damaged(how: str) -> ArchiveError:
    return ArchiveError(f"the zip directory is damaged ({how}); copy or build the archive again")


def _check_end_record(file: BinaryIO, limits: UnpackLimits) -> int:
    """The end record must be the file's last bytes and promise a directory of bearable size.

    Returns:
        The number of entries it promises.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_RECORD.size))
    record = file.read(_END_RECORD.size)
    try:
        is_zip = zipfile.is_zipfile(file)
    except zipfile.BadZipFile as error:  # which is how it speaks of some damaged zip64 records
        raise _damaged(str(error)) from error
    if not is_zip:
        raise ArchiveError(
            "not a zip file, nor a tar.gz one; build it with `flambeau export` or "
            "`flambeau archive`"
        )
    if record[:4] != _END_SIGNATURE:
        raise ArchiveError(
            "a comment or other bytes follow the zip directory; build the archive again without"
        )
    _, _, _, _, num_entries, directory_bytes, _, _ = _END_RECORD.unpack(record)
    # 0xFFFF says that the real count is in a zip64 record: more than we take in any case.
    # 46 bytes of fixed fields, then the name, 64 bytes for zip64 and time stamps.
    most = limits.max_entries * (46 + 64 + 2 * limits.max_name_bytes)
    if num_entries > limits.max_entries or _IN_ZIP64_FIELD > directory_bytes > most:
        raise ArchiveError(
            f"the zip directory lists {num_entries} entries in {directory_bytes} bytes; at most "
            f"{limits.max_entries} entries are unpacked, so put many small files into one"
        )
    return int(num_entries)


def _checked_entry(
    file: BinaryIO, info: zipfile.ZipInfo, name: str, limits: UnpackLimits
) -> ZipEntry:
    is_dir = _is_dir(info)
    mode = info.external_attr >> 16
    expected_type = stat.S_IFDIR if is_dir else stat.S_IFREG
    if stat.S_IFMT(mode) not in {0, expected_type}:
        raise refusal(name, "is a link or special file; only regular files are unpacked")
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise refusal(name, "has a setuid, setgid or sticky bit")
    if info.flag_bits & _ENCRYPTED:
        raise refusal(name, "is encrypted")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise refusal(name, f"uses compression method {info.compress_type}, not store or deflate")
    if is_dir and info.file_size:
        raise refusal(name, "is a directory with data")
    too_small = info.file_size > limits.max_ratio * max(1, info.compress_size)
    if too_small and info.file_size > _RATIO_APPLIES_BYTES:
        raise refusal(
            name,
            f"inflates {info.compress_size} bytes to {info.file_size}, more than "
            f"{limits.max_ratio} times",
        )
    return ZipEntry(
        name=name,
        is_dir=is_dir,
        data_at=_checked_data_at(file, info, name),
        stored_bytes=info.compress_size,
        size_bytes=info.file_size,
        crc=info.CRC,
        is_deflated=info.compress_type == zipfile.ZIP_DEFLATED,
    )


def _is_dir(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")  # ZipInfo.is_dir() fails on an empty name


def _checked_data_at(file: BinaryIO, info: zipfile.ZipInfo, name: str) -> int:
    """Where the entry's data begins, if its local header says what the directory says."""
    header = b""
    if info.header_offset >= 0:  # negative where the file's beginning is missing
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or header[:4] != _LOCAL_SIGNATURE:
        raise refusal(name, "has no local header where the zip directory says")
    _, _, flags, method, _, _, crc, stored, size, name_len, extra_len = _LOCAL_HEADER.unpack(header)
    encoding = "utf-8" if info.flag_bits & _UTF8_NAME else "cp437"
    claims: list[tuple[object, object]] = [
        (flags, info.flag_bits),
        (method, info.compress_type),
        (file.read(name_len), info.orig_filename.encode(encoding)),
    ]
    if not flags & _SIZES_FOLLOW_DATA:
        claims.append((crc, info.CRC))
        claims += [(stored, info.compress_size)] if stored != _IN_ZIP64_FIELD else []
        claims += [(size, info.file_size)] if size != _IN_ZIP64_FIELD else []
    if any(local != central for local, central in claims):
        raise refusal(name, "has a local header that contradicts the zip directory")
    return info.header_offset + _LOCAL_HEADER.size + int(name_len) + int(extra_len)


def _check_layout(infos: list[zipfile.ZipInfo], entries: list[ZipEntry]) -> None:
    """Entries follow each other from the first byte on and share none."""
    spans = sorted(
        (info.header_offset, entry.data_at + entry.stored_bytes, entry.name)
        for info, entry in zip(infos, entries, strict=True)
    )
    if spans and spans[0][0] != 0:
        raise refusal(spans[0][2], "does not start the file: other bytes precede the archive")
    for (_, end, name), (start, _, neighbour) in pairwise(spans):
        if end > start:
            raise refusal(name, f"overlaps entry {neighbour!r}")


def _stored(file: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    at, left = entry.data_at, entry.stored_bytes
    while left:
        file.seek(at)  # the caller may read other entries between two pieces
        piece = file.read(min(left, _CHUNK_BYTES))
        if not piece:
            raise refusal(entry.name, "ends early")
        at, left = at + len(piece), left - len(piece)
        yield piece


def _deflated(file: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for stored in _stored(file, entry):
            if inflater.eof:
                raise refusal(entry.name, "ends before the zip directory says")
            yield inflater.decompress(stored, _CHUNK_BYTES)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, _CHUNK_BYTES)
        while rest := inflater.decompress(b"", _CHUNK_BYTES):  # output that waited for room
            yield rest
    except zlib.error as error:
        raise refusal(entry.name, f"does not inflate ({error})") from error
    if not inflater.eof or inflater.unused_data:
        raise refusal(entry.name, "does not end where the zip directory says")
