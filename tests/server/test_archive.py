"""Archives as users, TorchServe and attackers make them."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.archive import digest, list_files, read_file, read_manifest, unpack, write_archive
from flambeau.errors import ArchiveError
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.unpack_limits import UnpackLimits

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFEST = Manifest(model_name="digits", handler="base_handler", serialized_file="model.pt")
FILES: dict[str, Path | bytes] = {
    "model.pt": b"weights" * 1000,
    "index_to_name.json": b'{"0": "zero"}',
    "MAR-INF/signature.json": b"{}",
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "digits.mar"
    write_archive(path, manifest=MANIFEST, files=FILES)
    return path


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below `root` with its mode and content; links are not followed."""
    listing: dict[str, tuple[int, bytes]] = {}
    for path in sorted(root.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        listing[str(path.relative_to(root))] = (path.lstat().st_mode, content)
    return listing


# writing


def test_an_archive_unpacks_to_what_was_written(archive: Path, tmp_path: Path) -> None:
    manifest = unpack(archive, tmp_path / "model")
    assert manifest == MANIFEST
    content = {k: v[1] for k, v in tree(tmp_path / "model").items() if stat.S_ISREG(v[0])}
    assert content.pop(MANIFEST_PATH) == MANIFEST.to_json().encode()
    assert content == FILES


def test_equal_content_gives_equal_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mar"
    source = tmp_path / "model.pt"
    source.write_bytes(b"weights" * 1000)
    files = dict(reversed(list({**FILES, "model.pt": source}.items())))
    assert write_archive(again, manifest=MANIFEST, files=files) == digest(archive)
    assert again.read_bytes() == archive.read_bytes()


def test_torchserve_finds_its_layout_and_keys(archive: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        assert zipped.testzip() is None
        methods = {info.filename: info.compress_type for info in zipped.infolist()}
        document = json.loads(zipped.read("MAR-INF/MANIFEST.json"))
    assert methods["model.pt"] == zipfile.ZIP_STORED
    assert methods["index_to_name.json"] == zipfile.ZIP_DEFLATED
    assert document["runtime"] == "python"
    assert document["model"] == {
        "modelName": "digits",
        "modelVersion": "1.0",
        "handler": "base_handler",
        "serializedFile": "model.pt",
    }


def test_an_existing_archive_is_kept_unless_overwritten(archive: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    with pytest.raises(ArchiveError, match=r"exists; choose another path"):
        write_archive(archive, manifest=MANIFEST, files={**FILES, "more.txt": b"x"})
    assert tree(tmp_path) == before
    write_archive(archive, manifest=MANIFEST, files={**FILES, "more.txt": b"x"}, overwrite=True)
    assert read_file(archive, "more.txt") == b"x"


def test_a_failed_write_leaves_the_old_archive_and_nothing_else(
    archive: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    with pytest.raises(ArchiveError, match="cannot be written"):
        write_archive(
            archive,
            manifest=MANIFEST,
            files={**FILES, "zzz.txt": tmp_path / "missing"},
            overwrite=True,
        )
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../up.txt", "/etc/x", "a\\b", "MODEL.pt", MANIFEST_PATH])
def test_names_that_could_not_be_unpacked_are_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        write_archive(tmp_path / "x.mar", manifest=MANIFEST, files={**FILES, name: b""})
    assert tree(tmp_path) == {}


def test_a_manifest_cannot_name_a_file_that_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"names 'model\.pt'"):
        write_archive(tmp_path / "x.mar", manifest=MANIFEST, files={})


# reading


def test_files_and_directories_get_plain_modes_whatever_the_umask(tmp_path: Path) -> None:
    path = hostile(tmp_path, [entry("bin/run.sh", mode=stat.S_IFREG | 0o777)])
    unpack(path, tmp_path / "model")
    modes = {k: oct(v[0]) for k, v in tree(tmp_path / "model").items()}
    assert modes["bin/run.sh"] == oct(stat.S_IFREG | 0o644)
    assert modes["bin"] == modes["MAR-INF"] == oct(stat.S_IFDIR | 0o755)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o755


def test_small_files_are_read_without_unpacking(archive: Path) -> None:
    assert read_file(archive, "index_to_name.json") == FILES["index_to_name.json"]
    assert read_file(archive, "nothing.json") is None
    assert list_files(archive)["model.pt"] == 7000


def test_an_archive_directory_is_copied(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "as_directory")
    assert read_manifest(tmp_path / "as_directory") == MANIFEST
    assert unpack(tmp_path / "as_directory", tmp_path / "copy") == MANIFEST
    assert tree(tmp_path / "copy") == tree(tmp_path / "as_directory")
    assert digest(tmp_path / "copy") == digest(tmp_path / "as_directory")
    (tmp_path / "copy" / "model.pt").write_bytes(b"other")
    assert digest(tmp_path / "copy") != digest(tmp_path / "as_directory")


def test_a_link_in_an_archive_directory_is_refused(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "model")
    (tmp_path / "model" / "passwd").symlink_to("/etc/passwd")
    before = tree(tmp_path)
    with pytest.raises(ArchiveError, match="'passwd' is a link to what is not in the archive"):
        unpack(tmp_path / "model", tmp_path / "copy")
    assert tree(tmp_path) == before


def test_a_link_to_a_file_of_the_same_directory_becomes_that_file(tmp_path: Path) -> None:
    """Download caches link the files of a snapshot to blobs."""
    cache = tmp_path / "model" / "cache"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshot").mkdir()
    (cache / "blobs" / "c0ffee").write_bytes(b"weights")
    (cache / "snapshot" / "model.pt").symlink_to("../blobs/c0ffee")
    (tmp_path / "model" / "handler.py").write_text("x = 1")
    unpack(tmp_path / "model", tmp_path / "copy")
    copied = tmp_path / "copy" / "cache" / "snapshot" / "model.pt"
    assert not copied.is_symlink()
    assert copied.read_bytes() == b"weights"


@pytest.mark.parametrize("target", [".", "handlers", "/", "nowhere", "a.txt"])
def test_a_link_to_no_file_of_the_same_directory_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "model" / "handlers").mkdir(parents=True)
    (tmp_path / "model" / "b.txt").write_text("b")
    (tmp_path / "model" / "a.txt").symlink_to(target)  # in one case to itself
    with pytest.raises(ArchiveError, match=r"is a link|cannot be read"):
        unpack(tmp_path / "model", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_volume_that_kubernetes_mounts_is_copied_as_it_looks(tmp_path: Path) -> None:
    data = tmp_path / "model" / "..2024_05_06"
    data.mkdir(parents=True)
    (data / "handler.py").write_text("x = 1")
    (tmp_path / "model" / "..data").symlink_to("..2024_05_06")
    (tmp_path / "model" / "handler.py").symlink_to("..data/handler.py")
    unpack(tmp_path / "model", tmp_path / "copy")
    assert {k: v[1] for k, v in tree(tmp_path / "copy").items()} == {"handler.py": b"x = 1"}


def test_large_weights_of_a_directory_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "handler.py").write_text("x = 1")
    with (tmp_path / "model" / "model.pt").open("wb") as file:
        file.truncate(64 << 20)
    unpack(tmp_path / "model", tmp_path / "copy")
    assert (tmp_path / "copy" / "model.pt").samefile(tmp_path / "model" / "model.pt")
    assert not (tmp_path / "copy" / "handler.py").is_symlink()
    shutil.rmtree(tmp_path / "copy")
    assert (tmp_path / "model" / "model.pt").is_file()


def test_a_directory_that_holds_one_directory_only_stands_for_it(tmp_path: Path) -> None:
    inner = tmp_path / "store" / "model"
    (inner / "MAR-INF").mkdir(parents=True)
    (inner / MANIFEST_PATH).write_text(MANIFEST.to_json())
    assert read_manifest(tmp_path / "store") == MANIFEST
    unpack(tmp_path / "store", tmp_path / "copy")
    assert (tmp_path / "copy" / MANIFEST_PATH).is_file()
    assert read_manifest(inner) == MANIFEST  # whose only entry is MAR-INF


def test_a_directory_over_the_limits_is_refused(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "model")
    for limits in (UnpackLimits(max_entries=2), UnpackLimits(max_total_bytes=10)):
        with pytest.raises(ArchiveError, match="at most"):
            unpack(tmp_path / "model", tmp_path / "copy", limits=limits)


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_archives_of_torch_model_archiver_are_read(archive_format: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"\0" * 5000)
    (tmp_path / "model-config.yaml").write_text("batchSize: 4\n")
    extra = tmp_path / "extra" / "vocab"
    extra.mkdir(parents=True)
    (extra / "words.txt").write_text("one two")
    command = [str(Path(sys.executable).with_name("torch-model-archiver"))]
    command += ["--model-name", "digits", "--version", "2.1", "--handler", "image_classifier"]
    command += ["--serialized-file", "weights.pt", "--config-file", "model-config.yaml"]
    command += ["--extra-files", "extra", "--archive-format", archive_format]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    name = {"no-archive": "digits", "tgz": "digits.tar.gz"}.get(archive_format, "digits.mar")

    manifest = unpack(tmp_path / name, tmp_path / "model")

    assert manifest == read_manifest(tmp_path / name)
    assert (manifest.model_name, manifest.model_version) == ("digits", "2.1")
    assert (manifest.handler, manifest.serialized_file) == ("image_classifier", "weights.pt")
    assert (tmp_path / "model" / "vocab" / "words.txt").read_text() == "one two"
    assert (tmp_path / "model" / "weights.pt").stat().st_size == 5000


def test_archives_with_streamed_entries_are_read(tmp_path: Path) -> None:
    """`zip -` and Java write sizes after the data."""
    path = tmp_path / "streamed.mar"
    with path.open("wb") as file:
        unseekable = Unseekable(file.write, file.flush)
        with zipfile.ZipFile(unseekable, "w", zipfile.ZIP_DEFLATED) as zipped:  # type: ignore[call-overload]  # it needs write and flush only
            zipped.writestr(MANIFEST_PATH, MANIFEST.to_json())
            zipped.writestr("model.pt", b"weights")
    assert read_file(path, "model.pt") == b"weights"


class Unseekable:
    """A pipe: can be written and flushed, nothing else."""

    def __init__(self, write: Callable[[bytes], int], flush: Callable[[], None]) -> None:
        self.write = write
        self.flush = flush


def test_a_server_that_stops_does_not_go_on_reading(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "as_directory")
    before = tree(tmp_path)
    stopping = threading.Event()
    stopping.set()
    for path in (archive, tmp_path / "as_directory"):
        with pytest.raises(ArchiveError, match="the server is stopping"):
            unpack(path, tmp_path / "model", stopping=stopping)
        with pytest.raises(ArchiveError, match="the server is stopping"):
            digest(path, stopping=stopping)
    assert tree(tmp_path) == before


# what is no archive


def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "empty.mar").write_bytes(b"")
    (tmp_path / "text.mar").write_bytes(b"hello" * 100)
    for name in ("empty.mar", "text.mar"):
        with pytest.raises(
            ArchiveError, match=rf"{name}: not a zip file, nor a tar\.gz one; build it"
        ):
            read_manifest(tmp_path / name)
    with pytest.raises(ArchiveError, match=r"none\.mar cannot be read.*No such file"):
        read_manifest(tmp_path / "none.mar")
    with pytest.raises(ArchiveError, match=r"none\.mar cannot be read"):
        digest(tmp_path / "none.mar")


def test_an_archive_without_a_manifest_says_nothing_about_itself(tmp_path: Path) -> None:
    path = hostile(tmp_path, [entry("model.pt")], manifest=False)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "model.pt").write_bytes(b"data")
    for number, source in enumerate((path, tmp_path / "directory")):
        assert read_manifest(source) == Manifest(model_version="1.0", runtime="python")
        assert unpack(source, tmp_path / f"model-{number}") == Manifest()
        assert (tmp_path / f"model-{number}" / "model.pt").read_bytes() == b"data"


def test_an_unknown_runtime_is_told_as_torchserve_tells_it(tmp_path: Path) -> None:
    manifest = entry(MANIFEST_PATH, b'{"runtime": "java"}')
    path = hostile(tmp_path, [manifest, entry("model.pt")], manifest=False)
    with pytest.raises(ArchiveError) as caught:
        unpack(path, tmp_path / "model")
    assert str(caught.value) == "Runtime is not defined or invalid."
    assert not (tmp_path / "model").exists()


def test_a_directory_in_use_is_not_unpacked_over(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(ArchiveError, match="cannot be read or unpacked"):
        unpack(archive, tmp_path / "model")
    assert tree(tmp_path) == before


def test_an_archive_larger_than_the_free_space_is_refused(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    sized = entry("big.bin", size=free + (64 << 30), zip64=True)
    path = hostile(tmp_path, [sized])
    limits = UnpackLimits(max_total_bytes=1 << 60, max_ratio=1 << 60)
    with pytest.raises(ArchiveError, match="make room there"):
        unpack(path, tmp_path / "model", limits=limits)


# hostile archives, built byte by byte because zipfile would not write most of them


@dataclass(frozen=True)
class Entry:
    """One entry in pieces; `at` is where its local header is said to be, None for the truth."""

    local: bytes
    central: bytes
    name_and_extra: bytes
    at: int | None


def entry(
    name: str | bytes,
    data: bytes = b"data",
    *,
    mode: int = 0,
    deflate: bool = False,
    size: int | None = None,
    stored: bytes | None = None,
    crc: int | None = None,
    flags: int = 0,
    method: int | None = None,
    local_name: bytes | None = None,
    local_size: int | None = None,
    at: int | None = None,
    stored_size: int | None = None,
    zip64: bool = False,
) -> Entry:
    """One entry's headers and data; what is not given is as it should be."""
    raw_name = name.encode() if isinstance(name, str) else name
    if stored is None:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        stored = compressor.compress(data) + compressor.flush() if deflate else data
    size = len(data) if size is None else size
    method = (8 if deflate else 0) if method is None else method
    crc = zlib.crc32(data) if crc is None else crc
    flags |= 0x800 if any(byte > 127 for byte in raw_name) else 0
    num_stored = len(stored) if stored_size is None else stored_size
    shown = 0xFFFFFFFF if zip64 else size
    extra = struct.pack("<HHQ", 1, 8, size) if zip64 else b""
    local_name = raw_name if local_name is None else local_name
    local_size = shown if local_size is None else local_size
    local = struct.pack(
        "<4sHHHHHIIIHH", b"PK\x03\x04", 20, flags, method, 0, 33, crc, num_stored, local_size,
        len(local_name), len(extra),
    )  # fmt: skip
    central = struct.pack(
        "<4sHHHHHHIIIHHHHHI", b"PK\x01\x02", 0x314, 20, flags, method, 0, 33, crc, num_stored,
        shown, len(raw_name), len(extra), 0, 0, 0, mode << 16,
    )  # fmt: skip
    return Entry(local + local_name + extra + stored, central, raw_name + extra, at)


def hostile(
    directory: Path,
    entries: list[Entry],
    *,
    manifest: bool = True,
    prefix: bytes = b"",
    suffix: bytes = b"",
    count: int | None = None,
) -> Path:
    """A zip file of these entries, after a sound manifest."""
    if manifest:
        entries = [entry(MANIFEST_PATH, MANIFEST.to_json().encode()), *entries]
    body, directory_bytes = prefix, b""
    for item in entries:
        at = len(body) if item.at is None else item.at
        directory_bytes += item.central + struct.pack("<I", at) + item.name_and_extra
        body += item.local
    count = len(entries) if count is None else count
    end = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory_bytes), len(body), 0
    )
    path = directory / "hostile.mar"
    path.write_bytes(body + directory_bytes + end + suffix)
    return path


def nested(*, depth: int) -> str:
    return "/".join(["d"] * depth)


ZEROS = b"\0" * (10 << 20)

# name of the case: entries, and what the refusal says
CORPUS: dict[str, tuple[list[Entry], str]] = {
    "parent": ([entry("../evil.txt")], "part"),
    "sibling with our prefix": ([entry("../model-evil/x")], "part"),
    "parent inside": ([entry("a/../../evil.txt")], "part"),
    "parent alone": ([entry("..")], "part"),
    "here": ([entry("./a.txt")], "part"),
    "empty part": ([entry("a//b.txt")], "part"),
    "empty name": ([entry("")], "relative"),
    "absolute": ([entry("/tmp/evil.txt")], "relative"),
    "absolute, two slashes": ([entry("//tmp/evil.txt")], "relative"),
    "absolute directory": ([entry("/tmp/evil/", b"")], "relative"),
    "backslash parent": ([entry("..\\evil.txt")], "backslash"),
    "backslash root": ([entry("\\evil.txt")], "backslash"),
    "drive": ([entry("C:evil.txt")], "relative"),
    "drive and slash": ([entry("c:/evil.txt")], "relative"),
    "NUL": ([entry("evil.txt\0.png")], "control character"),
    "newline": ([entry("evil\n.txt")], "control character"),
    "escape": ([entry("\x1b[2Jevil.txt")], "control character"),
    "C1 control": ([entry("evil\x85.txt")], "control character"),
    "line separator": ([entry("evil\u2028.txt")], "control character"),
    "symlink": ([entry("link", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)], "link or special"),
    "symlink to a directory": (
        [entry("link", b"..", mode=stat.S_IFLNK | 0o777), entry("link/evil.txt")],
        "link or special|is a file and also",
    ),
    "fifo": ([entry("pipe", mode=stat.S_IFIFO | 0o644)], "link or special"),
    "block device": ([entry("disk", mode=stat.S_IFBLK | 0o644)], "link or special"),
    "character device": ([entry("tty", mode=stat.S_IFCHR | 0o644)], "link or special"),
    "socket": ([entry("socket", mode=stat.S_IFSOCK | 0o644)], "link or special"),
    "file mode on a directory": ([entry("d/", b"", mode=stat.S_IFREG | 0o644)], "special"),
    "setuid": ([entry("run", mode=stat.S_IFREG | 0o4755)], "setuid"),
    "setgid": ([entry("run", mode=stat.S_IFREG | 0o2755)], "setuid"),
    "twice": ([entry("a.txt"), entry("a.txt", b"other")], "twice"),
    "two manifests": ([entry(MANIFEST_PATH, b"{}")], "twice"),
    "case twins": ([entry("Model.pt"), entry("model.PT")], "case is ignored"),
    "sharp s twins": ([entry("stra\u00dfe"), entry("STRASSE")], "case is ignored"),
    "composed and decomposed": ([entry("\u00e9.txt"), entry("e\u0301.txt")], "case is ignored"),
    "case twins of directories": ([entry("D/a.txt"), entry("d/b.txt")], "case is ignored"),
    "manifest in other case": ([entry("mar-inf/x.json")], "case is ignored"),
    "file and directory": ([entry("a"), entry("a/b.txt")], "is a file and also"),
    "directory and file": ([entry("a/b.txt"), entry("a")], "is a file and also"),
    "directory entry and file": ([entry("a/", b""), entry("a")], "twice"),
    "directory with data": ([entry("a/", b"data")], "directory with data"),
    "deep": ([entry(nested(depth=17))], "17 levels"),
    "long name": ([entry("n" * 256)], "256 bytes"),
    "long name in UTF-8": ([entry("\u00e9" * 128)], "256 bytes"),
    "many entries": ([entry(f"{i}", b"") for i in range(10_000)], "at most 10000 entries"),
    "ratio": ([entry("zeros.bin", ZEROS, deflate=True)], "more than 200 times"),
    "ratio of all": (
        [entry(f"{i}.bin", ZEROS[: 7 << 20], deflate=True) for i in range(50)],
        "without what repeats itself",
    ),
    "declares less, deflated": (
        [entry("a.bin", ZEROS[:5000], deflate=True, size=10, crc=zlib.crc32(b"\0" * 10))],
        "more than the 10 bytes",
    ),
    "declares more, deflated": ([entry("a.bin", b"abc", deflate=True, size=1000)], "declares 1000"),
    "declares less, stored": ([entry("a.bin", b"abcdef", size=3)], "more than the 3 bytes"),
    "declares more, stored": ([entry("a.bin", b"abc", size=1000)], "declares 1000"),
    "over the total": ([entry("a.bin", b"", size=300 << 30, zip64=True)], "at most|times"),
    "local size differs": ([entry("a.bin", local_size=3)], "contradicts"),
    "local name differs": ([entry("a.txt", local_name=b"b.txt")], "contradicts"),
    "local name leaves": ([entry("a.txt", local_name=b"../a.txt")], "contradicts"),
    "no local header": ([entry("a.txt", at=5)], "no local header"),
    "past the end": ([entry("a.txt", at=1 << 20)], "no local header"),
    "encrypted": ([entry("secret.txt", flags=1)], "encrypted"),
    "strongly encrypted": ([entry("secret.txt", flags=0x41)], "encrypted"),
    "LZMA": ([entry("a.bin", method=14)], "compression method 14"),
    "BZIP2": ([entry("a.bin", method=12)], "compression method 12"),
    "CRC": ([entry("a.bin", b"data", crc=1)], "CRC-32"),
    "CRC, deflated": ([entry("a.bin", b"data", deflate=True, crc=1)], "CRC-32"),
    "no deflate stream": ([entry("a.bin", stored=b"\xff" * 20, method=8)], "does not inflate"),
    "deflate stream cut": (
        [entry("a.bin", b"data", deflate=True, stored_size=3)],
        "does not end where|contradicts",
    ),
    "data behind the stream": (
        [entry("a.bin", b"", stored=b"\x03\x00" + b"hidden", method=8)],
        "does not end where",
    ),
    "data runs out": ([entry("a.bin", b"x" * 10, stored_size=10_000)], "ends early|declares"),
}


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_archive_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    entries, says = CORPUS[case]
    path = hostile(tmp_path, entries)
    (tmp_path / "work").mkdir()
    before = tree(tmp_path)

    with pytest.raises(ArchiveError, match=says) as caught:
        unpack(path, tmp_path / "work" / "model")

    text = str(caught.value)
    assert "hostile.mar" in text
    if "entry " in text:
        names = [item.name_and_extra.partition(b"\1\0")[0].decode().rstrip("/") for item in entries]
        assert any(repr(name[:40])[:-1] in text for name in (MANIFEST_PATH, *names))
    assert tree(tmp_path) == before
    assert not Path("/tmp/evil.txt").exists()
    assert not Path("/tmp/evil").exists()


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    """The quoted overlap: one entry's data is the next entry's header and data."""
    inner = entry("inner.txt", b"x" * 50)
    outer = entry("outer.bin", inner.local)
    manifest = entry(MANIFEST_PATH, MANIFEST.to_json().encode())
    inside = len(manifest.local) + len(outer.local) - len(inner.local)
    path = hostile(tmp_path, [outer, replace(inner, local=b"", at=inside)])
    with pytest.raises(ArchiveError, match=r"'outer\.bin' overlaps entry 'inner\.txt'"):
        unpack(path, tmp_path / "model")


def test_bytes_before_and_after_the_archive_are_refused(tmp_path: Path) -> None:
    path = hostile(tmp_path, [entry("model.pt")], prefix=b"#!/bin/sh\n")
    with pytest.raises(ArchiveError, match="other bytes precede"):
        read_manifest(path)
    path = hostile(tmp_path, [entry("model.pt")], suffix=b"trailing")
    with pytest.raises(ArchiveError, match=r"other bytes follow|not a zip file"):
        read_manifest(path)
    path = hostile(tmp_path, [entry("model.pt")])
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.comment = b"hello"
    with pytest.raises(ArchiveError, match="a comment or other bytes follow"):
        read_manifest(path)


def test_a_directory_of_too_many_entries_is_refused_unread(tmp_path: Path) -> None:
    path = hostile(tmp_path, [entry("model.pt")], count=65_535)
    with pytest.raises(ArchiveError, match="lists 65535 entries"):
        read_manifest(path)


def test_the_limits_can_be_set(tmp_path: Path) -> None:
    path = hostile(tmp_path, [entry("a/b.bin", b"x" * 1000), entry("zeros", ZEROS, deflate=True)])
    unpack(path, tmp_path / "model", limits=UnpackLimits(max_ratio=2000))
    assert (tmp_path / "model" / "zeros").read_bytes() == ZEROS
    tight = [
        UnpackLimits(max_ratio=2000, max_entries=2),
        UnpackLimits(max_ratio=2000, max_depth=1),
        UnpackLimits(max_ratio=2000, max_name_bytes=4),
        UnpackLimits(max_ratio=2000, max_total_bytes=1000),
    ]
    for limits in tight:
        with pytest.raises(ArchiveError, match="at most"):
            unpack(path, tmp_path / "other", limits=limits)


def test_a_refusal_names_the_entry_and_the_next_step(tmp_path: Path) -> None:
    path = hostile(tmp_path, [entry("../evil.txt")])
    with pytest.raises(ArchiveError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path}: entry '../evil.txt' has an empty, '.' or '..' part; nothing was unpacked: "
        "build the archive again without it"
    )


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_archive_is_refused_or_unpacks_unharmed(
    position: int, value: int, *, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    path = root / "digits.mar"
    write_archive(path, manifest=MANIFEST, files={**FILES, "model.pt": b"weights" * 10})
    sound = path.read_bytes()
    at = position % len(sound)
    path.write_bytes(sound[:at] if cut else sound[:at] + bytes([value]) + sound[at + 1 :])
    try:
        unpack(path, root / "model")
    except ArchiveError:
        assert [item.name for item in root.iterdir()] == ["digits.mar"]
    else:
        assert (root / "model" / "model.pt").read_bytes() == b"weights" * 10


@pytest.mark.parametrize("disks", [2, 9])
def test_a_file_that_says_it_is_one_of_several_is_refused(tmp_path: Path, disks: int) -> None:
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, disks)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    (path := tmp_path / "part.mar").write_bytes(locator + end)
    with pytest.raises(ArchiveError, match="the zip directory is damaged"):
        read_manifest(path)


def test_a_file_whose_beginning_is_missing_is_refused(archive: Path, tmp_path: Path) -> None:
    (path := tmp_path / "rest.mar").write_bytes(archive.read_bytes()[10:])
    with pytest.raises(ArchiveError):
        unpack(path, tmp_path / "into")
    assert not (tmp_path / "into").exists() or not any((tmp_path / "into").iterdir())
