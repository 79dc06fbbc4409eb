"""What is read of sound zip files, and where each limit is; `test_archive.py` has the others."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from flambeau.errors import ArchiveError
from flambeau.unpack_limits import UnpackLimits
from flambeau.zip_entries import ZipEntry, checked_entries, inflate
from tests.server.test_archive import Entry, entry, hostile


def zipped(
    directory: Path, *entries: Entry, prefix: bytes = b"", count: int | None = None
) -> bytes:
    path = hostile(directory, list(entries), manifest=False, prefix=prefix, count=count)
    return path.read_bytes()


def entries_of(data: bytes, limits: UnpackLimits | None = None) -> list[ZipEntry]:
    return checked_entries(BytesIO(data), limits or UnpackLimits())


def contents(data: bytes) -> dict[str, bytes]:
    return {each.name: b"".join(inflate(BytesIO(data), each)) for each in entries_of(data)}


@pytest.mark.parametrize("deflate", [True, False])
def test_files_and_directories_are_told_apart(tmp_path: Path, *, deflate: bool) -> None:
    data = zipped(tmp_path, entry("d/", b""), entry("d/f", b"x" * 3_000_000, deflate=deflate))
    found = entries_of(data)
    assert [(each.name, each.is_dir) for each in found] == [("d", True), ("d/f", False)]
    pieces = list(inflate(BytesIO(data), found[1]))
    assert b"".join(pieces) == b"x" * 3_000_000
    assert max(map(len, pieces)) <= 1 << 20


def test_a_file_of_no_entries_has_none(tmp_path: Path) -> None:
    assert entries_of(zipped(tmp_path)) == []


def test_sizes_in_the_extra_field_are_read(tmp_path: Path) -> None:
    data = zipped(tmp_path, entry("a.bin", b"abc", zip64=True), entry("b.bin", b"de"))
    assert contents(data) == {"a.bin": b"abc", "b.bin": b"de"}


def test_a_name_without_the_flag_for_utf_8_is_in_the_code_page_of_dos(tmp_path: Path) -> None:
    named = entry(b"\x81.txt")
    plain = replace(
        named,
        local=named.local[:6] + b"\0\0" + named.local[8:],
        central=named.central[:8] + b"\0\0" + named.central[10:],
    )
    assert contents(zipped(tmp_path, plain)) == {"\u00fc.txt": b"data"}


def test_a_name_with_the_flag_for_utf_8_is_in_utf_8(tmp_path: Path) -> None:
    assert contents(zipped(tmp_path, entry("\u00fc\u4e2d.txt"))) == {"\u00fc\u4e2d.txt": b"data"}


def test_a_stored_size_that_differs_is_a_contradiction(tmp_path: Path) -> None:
    sound = entry("a.bin", b"x" * 50, deflate=True)
    lying = replace(sound, local=sound.local[:18] + b"\1\0\0\0" + sound.local[22:])
    with pytest.raises(ArchiveError, match=r"entry 'a\.bin' has a local header that contradicts"):
        entries_of(zipped(tmp_path, lying))


def test_as_many_entries_as_the_limit_are_read(tmp_path: Path) -> None:
    data = zipped(tmp_path, entry("a"), entry("b"))
    assert len(entries_of(data, UnpackLimits(max_entries=2))) == 2
    with pytest.raises(ArchiveError, match="lists 2 entries in 94 bytes; at most 1 "):
        entries_of(data, UnpackLimits(max_entries=1))


def test_a_directory_of_as_many_bytes_as_its_entries_may_have_is_read(tmp_path: Path) -> None:
    limits = UnpackLimits(max_entries=2, max_name_bytes=4)  # 2 times 46 + 64 + 8 bytes
    for length, says in ((72, "has 72 bytes in a part"), (73, "lists 2 entries in 238 bytes")):
        data = zipped(tmp_path, entry("a" * length), entry("b" * length))
        with pytest.raises(ArchiveError, match=says):
            entries_of(data, limits)
    data = zipped(tmp_path, entry("a" * 72), entry("b" * 73))
    with pytest.raises(ArchiveError, match="lists 2 entries in 237 bytes"):
        entries_of(data, limits)


def test_what_precedes_the_first_entry_is_told_with_its_name(tmp_path: Path) -> None:
    data = zipped(tmp_path, entry("a"), entry("b"), prefix=b"#!/bin/sh\n")
    with pytest.raises(ArchiveError, match=r"^entry 'a' does not start the file"):
        entries_of(data)


def test_how_a_directory_is_damaged_is_told(tmp_path: Path) -> None:
    few = zipped(tmp_path, entry("a"), entry("b"), count=1)
    with pytest.raises(ArchiveError, match=r"damaged \(2 of 1 entries are in it\)"):
        entries_of(few)
    sound = zipped(tmp_path, entry("a"))
    with pytest.raises(ArchiveError, match=r"damaged \(Bad magic number"):
        entries_of(sound.replace(b"PK\x01\x02", b"PK\x01\x03"))
    several = b"PK\6\7" + bytes(12) + b"\2\0\0\0" + zipped(tmp_path)
    with pytest.raises(ArchiveError, match=r"damaged \(.*disks"):
        entries_of(several)


def refused(data: bytes, limits: UnpackLimits | None = None) -> str:
    with pytest.raises(ArchiveError) as caught:
        read_all(data, limits)
    return str(caught.value)


def read_all(data: bytes, limits: UnpackLimits | None) -> None:
    for each in entries_of(data, limits):
        list(inflate(BytesIO(data), each))


def test_modes_that_say_what_an_entry_is_are_read(tmp_path: Path) -> None:
    modes = entry("d/", b"", mode=stat.S_IFDIR | 0o755), entry("d/f", mode=stat.S_IFREG | 0o644)
    found = entries_of(zipped(tmp_path, *modes))
    assert [(each.name, each.is_dir, each.size_bytes) for each in found] == [
        ("d", True, 0),
        ("d/f", False, 4),
    ]
    for mode in (stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX):
        assert "has a setuid, setgid or sticky bit" in refused(
            zipped(tmp_path, entry("f", mode=mode))
        )


def test_a_file_that_repeats_itself_is_refused_from_a_size_on(tmp_path: Path) -> None:
    limits, size = UnpackLimits(max_ratio=2), 8 << 20
    assert entries_of(zipped(tmp_path, entry("a", b"", size=size)), limits)[0].size_bytes == size
    half = size // 2 + 1
    assert entries_of(zipped(tmp_path, entry("a", b"", size=2 * half, stored_size=half)), limits)
    said = refused(zipped(tmp_path, entry("a", b"", size=2 * half + 1, stored_size=half)), limits)
    assert f"entry 'a' inflates {half} bytes to {2 * half + 1}, more than 2 times" in said
    assert "inflates 0 bytes to" in refused(
        zipped(tmp_path, entry("a", b"", size=size + 1)), limits
    )


def test_files_that_repeat_themselves_are_refused_from_a_total_on(tmp_path: Path) -> None:
    limits, size = UnpackLimits(max_ratio=2), 8 << 20
    many = [entry(str(number), b"", size=size) for number in range(32)]
    most = zipped(tmp_path, *many, entry("last", b"", size=20, stored_size=10))
    assert len(entries_of(most, limits)) == 33
    more = zipped(tmp_path, *many, entry("last", b"", size=21, stored_size=10))
    assert f"it inflates 10 bytes to {(256 << 20) + 21}, more than 2 times" in refused(more, limits)


def test_all_files_together_are_held_against_the_limit(tmp_path: Path) -> None:
    data = zipped(tmp_path, entry("a", b"abc"), entry("b", b"de"))
    assert len(entries_of(data, UnpackLimits(max_total_bytes=5))) == 2
    said = refused(data, UnpackLimits(max_total_bytes=4))
    assert "the files take 5 bytes unpacked; at most 4" in said


@pytest.mark.parametrize("flag", [0x1, 0x40])
def test_each_flag_of_encryption_is_known(tmp_path: Path, flag: int) -> None:
    assert "entry 'a' is encrypted" in refused(zipped(tmp_path, entry("a", flags=flag)))


@pytest.mark.parametrize("at", [6, 8, 14, 18, 22], ids=["flags", "method", "crc", "stored", "size"])
def test_no_field_of_a_local_header_may_differ(tmp_path: Path, at: int) -> None:
    sound = entry("a")
    local = sound.local[:at] + bytes([sound.local[at] ^ 2]) + sound.local[at + 1 :]
    said = refused(zipped(tmp_path, replace(sound, local=local)))
    assert "entry 'a' has a local header that contradicts the zip directory" in said


class Pipe(BytesIO):
    """What cannot be gone back in, so that sizes follow the data."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise OSError


def test_archives_that_were_written_to_a_pipe_are_read() -> None:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("a", b"abc")
        writer.writestr("b", b"x" * 3_000_000)
    assert contents(pipe.getvalue()) == {"a": b"abc", "b": b"x" * 3_000_000}


def test_entries_are_read_in_turns(tmp_path: Path) -> None:
    bodies = [bytes([number]) * 3_000_000 for number in (1, 2)]
    data = zipped(tmp_path, *(entry(str(place), body) for place, body in enumerate(bodies)))
    file = BytesIO(data)
    first, second = (inflate(file, each) for each in entries_of(data))
    pieces = list(zip(first, second, strict=True))
    assert [b"".join(each) for each in zip(*pieces, strict=True)] == bodies


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            entry("a", b"", stored=b"\3\0" + bytes(1 << 20), method=8),
            "ends before the zip directory",
        ),
        (
            entry("a", b"", stored=b"\3\0more", method=8),
            "does not end where the zip directory says",
        ),
        (entry("a", b"", stored=b"\xff", method=8), "does not inflate (Error -3"),
        (entry("a", b"", stored=b"", method=8), "does not end where the zip directory says"),
        (entry("a", b"abc", deflate=True, size=4), "holds 3 bytes but declares 4"),
        (entry("a", b"abc", size=2), "holds more than the 2 bytes it declares"),
        (entry("a", b"abc", size=4), "holds 3 bytes but declares 4"),
        (entry("a", b"abc", crc=1), "does not match its CRC-32 checksum"),
        (entry("a", b"abc", size=5000, stored_size=5000), "ends early"),
    ],
)
def test_data_that_is_not_what_was_promised_is_told(tmp_path: Path, bad: Entry, says: str) -> None:
    assert f"entry 'a' {says}" in refused(zipped(tmp_path, bad))


def test_the_end_of_a_file_that_waits_inside_zlib_is_read(tmp_path: Path) -> None:
    """All of it has gone in when a mebibyte has come out."""
    body = b"x" * ((1 << 20) + 100)
    assert contents(zipped(tmp_path, entry("a", body, deflate=True))) == {"a": body}


def test_no_more_is_given_than_was_promised(tmp_path: Path) -> None:
    lying = entry("a", b"x" * 3_000_000, deflate=True, size=2_000_000)
    data = zipped(tmp_path, lying)
    pieces = inflate(BytesIO(data), entries_of(data)[0])
    assert next(pieces) == b"x" * (1 << 20)
    with pytest.raises(ArchiveError, match="holds more than the 2000000 bytes"):
        next(pieces)


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\5\6" + bytes(17), bytes(22)])
def test_what_is_too_short_or_empty_is_no_zip_file(data: bytes) -> None:
    assert refused(data).startswith("not a zip file, nor a tar.gz one; build it with `flambeau")


def test_a_directory_whose_size_is_in_a_zip64_record_is_read(tmp_path: Path) -> None:
    data = zipped(tmp_path, entry("a"))
    _, _, _, _, count, size, at, _ = struct.unpack("<4sHHHHIIH", data[-22:])
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(data) - 22, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    large = data[:-22] + record + locator + end
    assert [each.name for each in entries_of(large)] == ["a"]
    assert contents(large) == {"a": b"data"}
    assert entries_of(large)[0].crc == zlib.crc32(b"data")
