"""What archives are to the byte, what is asked before one is unpacked, and what stops it."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from flambeau.archive import (
    Approve,
    digest,
    list_files,
    list_of_sources,
    read_file,
    read_manifest,
    unpack,
    write_archive,
)
from flambeau.errors import ArchiveError
from flambeau.file_digests import FILES_PATH, SIGNATURES_PATH, read_list
from flambeau.manifest import MANIFEST_PATH, Manifest
from tests.server.test_archive import entry, hostile

MANIFEST = Manifest(model_name="digits", handler="base_handler")
MIB = 1 << 20


def make(directory: Path, *, digests: bool = False, **files: bytes) -> Path:
    path = directory / "digits.mar"
    write_archive(path, manifest=MANIFEST, files=dict(files), digests=digests)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_entries_have_one_date_one_mode_and_one_system(tmp_path: Path) -> None:
    with zipfile.ZipFile(make(tmp_path, b=b"2", a=b"1")) as opened:
        infos = opened.infolist()
    assert [info.filename for info in infos] == [MANIFEST_PATH, "a", "b"]
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {(info.create_system, info.external_attr >> 16) for info in infos} == {(3, 0o100644)}


def test_text_is_deflated_up_to_a_mebibyte_and_the_rest_is_stored(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_bytes(b"x" * MIB)
    path = tmp_path / "digits.mar"
    files: dict[str, Path | bytes] = {"a.txt": source, "b.json": b"x" * (MIB + 1)}
    files |= {"c.py": b"", "d.pt": b"x" * 100}
    write_archive(path, manifest=MANIFEST, files=files)
    with zipfile.ZipFile(path) as opened:
        kinds = {info.filename: info.compress_type for info in opened.infolist()}
    assert [kinds[name] for name in sorted(files)] == [8, 0, 8, 0]
    assert list_files(path) == {
        MANIFEST_PATH: len(MANIFEST.to_json()),
        "a.txt": MIB,
        "b.json": MIB + 1,
        "c.py": 0,
        "d.pt": 100,
    }


def test_what_is_returned_and_computed_again_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.mar"
    told = write_archive(path, manifest=MANIFEST, files={"model.pt": bytes(range(256)) * 9000})
    assert told == sha256(path.read_bytes()) == digest(path)


def test_a_directory_has_the_digest_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "m" / "d").mkdir(parents=True)
    (tmp_path / "m" / "d" / "b.pt").write_bytes(b"b" * 3 * MIB)
    (tmp_path / "m" / "a.py").write_bytes(b"a")
    lines = f"a.py {sha256(b'a')}\nd/b.pt {sha256(b'b' * 3 * MIB)}\n"
    assert digest(tmp_path / "m") == sha256(lines.encode())


def test_what_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        digest(tmp_path / "none.mar")
    assert str(caught.value) == f"{tmp_path}/none.mar cannot be read: No such file or directory"


def test_each_file_is_listed_with_its_size_and_sha256(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_bytes(b"x" * 3 * MIB)
    listed = read_list(list_of_sources({"a": source, "b": b"bytes"}))
    assert {name: (each.size_bytes, each.sha256) for name, each in listed.items()} == {
        "a": (3 * MIB, sha256(b"x" * 3 * MIB)),
        "b": (5, sha256(b"bytes")),
    }
    path = make(tmp_path, digests=True, model=b"weights")
    assert read_list(read_file(path, FILES_PATH) or b"").keys() == {MANIFEST_PATH, "model"}


@pytest.mark.parametrize(
    "field", ["serialized_file", "model_file", "requirements_file", "config_file"]
)
def test_each_file_that_a_manifest_names_must_be_there(tmp_path: Path, field: str) -> None:
    manifest = replace(MANIFEST, **{field: "it.x"})
    path = tmp_path / "digits.mar"
    with pytest.raises(ArchiveError) as caught:
        write_archive(path, manifest=manifest, files={"other": b""})
    assert str(caught.value) == "the manifest names 'it.x', which is not among the files"
    write_archive(path, manifest=manifest, files={"it.x": b""})
    assert read_manifest(path) == manifest


def test_why_an_archive_is_not_written_is_told(tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(ArchiveError) as caught:
        make(tmp_path)
    assert str(caught.value) == (f"{path} exists; choose another path, or say overwrite (--force)")
    for digests in (False, True):
        with pytest.raises(ArchiveError) as caught:
            write_archive(
                tmp_path / "other.mar",
                manifest=MANIFEST,
                files={"x": tmp_path / "missing"},
                digests=digests,
            )
        assert str(caught.value).startswith(f"{tmp_path}/other.mar cannot be written: [Errno 2] ")


def test_directories_are_no_files(tmp_path: Path) -> None:
    path = hostile(tmp_path, [entry("d/", b""), entry("d/f", b"x")])
    assert read_file(path, "d") is None
    assert read_file(path, "d/f") == b"x"
    assert list(list_files(path)) == [MANIFEST_PATH, "d/f"]


def test_metadata_is_read_up_to_its_limit(tmp_path: Path) -> None:
    most = 64 * MIB
    path = hostile(tmp_path, [entry("a", b"", size=most + 1, stored_size=most + 1)])
    with pytest.raises(ArchiveError) as caught:
        read_file(path, "a")
    assert str(caught.value) == (
        f"{path}: entry 'a' has {most + 1} bytes, over {most}; build the archive again"
    )
    path = hostile(tmp_path, [entry("a", b"", size=most, stored_size=most)])
    with pytest.raises(ArchiveError, match="entry 'a' ends early"):
        read_file(path, "a")


def test_nothing_is_unpacked_or_read_while_the_server_stops(tmp_path: Path) -> None:
    path, stopping = make(tmp_path, model=b"weights"), threading.Event()
    assert unpack(path, tmp_path / "model", stopping=stopping) == MANIFEST
    assert digest(path, stopping=stopping) == digest(path)
    before = sorted(tmp_path.rglob("*"))
    stopping.set()
    with pytest.raises(ArchiveError, match="the server is stopping"):
        unpack(path, tmp_path / "other", stopping=stopping)
    for each in (path, tmp_path / "model"):
        with pytest.raises(ArchiveError, match="the server is stopping"):
            digest(each, stopping=stopping)
    assert sorted(tmp_path.rglob("*")) == before


def test_who_approves_sees_the_list_and_the_signatures_before_anything_is_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "digits.mar"
    files: dict[str, Path | bytes] = {SIGNATURES_PATH: b"{}", "model": b"weights"}
    write_archive(path, manifest=MANIFEST, files=files, digests=True)
    seen: list[tuple[bytes | None, bytes | None]] = []

    def refuse(file_list: bytes | None, signatures: bytes | None) -> bool:
        seen.append((file_list, signatures))
        assert list(tmp_path.iterdir()) == [path]
        raise ArchiveError("no")

    with pytest.raises(ArchiveError, match=r"no$"):
        unpack(path, tmp_path / "model", approve=refuse)
    assert seen == [(read_file(path, FILES_PATH), b"{}")]
    assert list(tmp_path.iterdir()) == [path]


def says(*, signed: bool) -> Approve:
    return lambda file_list, signatures: signed and file_list is not None and signatures is None


def test_what_counts_as_signed_must_be_as_signed_to_the_last_byte(tmp_path: Path) -> None:
    path = make(tmp_path, digests=True, model=b"weights")  # not the form of signed archives
    assert unpack(path, tmp_path / "a", approve=says(signed=False)) == MANIFEST
    with pytest.raises(ArchiveError, match="the bytes around them are not"):
        unpack(path, tmp_path / "b", approve=says(signed=True))
    assert unpack(tmp_path / "a", tmp_path / "c", approve=says(signed=True)) == MANIFEST
    assert not (tmp_path / "b").exists()
