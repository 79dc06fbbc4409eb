"""What is read of sound zip files, and where each limit is; `test_archive.py` has the others."""

from __future__ import annotations

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
