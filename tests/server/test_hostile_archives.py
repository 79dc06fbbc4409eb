"""Hostile archives of tests/corpora/archives.json, each as a zip file and as its tar.gz twin."""

from __future__ import annotations

import gzip
import io
import json
import resource
import stat
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.archive import unpack
from flambeau.errors import ArchiveError
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.unpack_limits import UnpackLimits
from tests.server import test_archive as zips

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.collected import RecordProperty

CORPUS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "corpora" / "archives.json").read_bytes()
)
CASES = [(recipe, kind) for recipe in CORPUS for kind in recipe["formats"]]
MANIFEST = Manifest(model_name="digits", handler="base_handler").to_json()
TYPES = {
    "file": (stat.S_IFREG, tarfile.REGTYPE),
    "dir": (stat.S_IFDIR, tarfile.DIRTYPE),
    "symlink": (stat.S_IFLNK, tarfile.SYMTYPE),
    "hardlink": (0, tarfile.LNKTYPE),
    "fifo": (stat.S_IFIFO, tarfile.FIFOTYPE),
    "char": (stat.S_IFCHR, tarfile.CHRTYPE),
    "block": (stat.S_IFBLK, tarfile.BLKTYPE),
    "socket": (stat.S_IFSOCK, b""),
}
MAX_SECONDS = 1.0
SLACK = 5  # other tests run on the same two cores; the bar itself is for a quiet machine


def entries_of(recipe: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if recipe.get("manifest", True):
        yield {"name": MANIFEST_PATH, "data": MANIFEST}
    for entry in recipe["entries"]:
        for index in range(entry.get("repeat", 1)):
            yield entry | {"name": entry["name"].replace("{index}", str(index))}


def data_of(entry: dict[str, Any]) -> bytes:
    if "zeros" in entry:
        return bytes(entry["zeros"])
    is_file = entry.get("type", "file") in {"file", "symlink"}
    text = str(entry.get("data", "data" if is_file else ""))
    return text.encode() * int(entry.get("times", 1))


def zip_file(recipe: dict[str, Any], directory: Path) -> Path:
    named = {"deflate", "size", "crc", "flags", "method"}
    entries = [
        zips.entry(
            entry["name"],
            data_of(entry),
            mode=TYPES[entry.get("type", "file")][0] | entry.get("mode", 0o644),
            local_name=entry["local_name"].encode() if "local_name" in entry else None,
            **{key: value for key, value in entry.items() if key in named},
        )
        for entry in entries_of(recipe)
    ]
    around = {key: recipe.get(key, "").encode() for key in ("prefix", "suffix")}
    return zips.hostile(directory, entries, manifest=False, **around)


def tgz_file(recipe: dict[str, Any], directory: Path) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writer:
        for entry in entries_of(recipe):
            info = tarfile.TarInfo(f"digits/{entry['name']}")
            info.type, info.mode = TYPES[entry.get("type", "file")][1], entry.get("mode", 0o644)
            data = b""
            if info.type in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
                info.linkname = entry["data"]
            elif info.type == tarfile.REGTYPE:
                data = data_of(entry)
                info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    path = directory / "hostile.tar.gz"
    packed = gzip.compress(buffer.getvalue(), compresslevel=9, mtime=0)
    path.write_bytes(recipe.get("prefix", "").encode() + packed + recipe.get("suffix", "").encode())
    return path


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file that this process writes can outgrow the cap by more than 1 MiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cap = 1 << 20
    yield cap
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("recipe", "kind"), CASES, ids=[f"{recipe['case']} ({kind})" for recipe, kind in CASES]
)
def test_a_hostile_archive_is_refused_at_once_and_changes_nothing(
    recipe: dict[str, Any],
    kind: str,
    tmp_path: Path,
    small_files: int,
    record_property: RecordProperty,
) -> None:
    record_property("case", "C18 hostile archives")
    (tmp_path / "work").mkdir()
    path = (zip_file if kind == "zip" else tgz_file)(recipe, tmp_path)
    before = zips.tree(tmp_path)
    limits = UnpackLimits(max_total_bytes=recipe.get("max_total_bytes", 256 << 30))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * small_files, hard))
    started_at = time.process_time()

    with pytest.raises(ArchiveError, match=recipe["says"]) as caught:
        unpack(path, tmp_path / "work" / "model", limits=limits)

    took_s = time.process_time() - started_at
    record_property("refused", 1)
    record_property("max_cpu_s", took_s)
    assert took_s < MAX_SECONDS * SLACK
    assert "hostile." in str(caught.value)
    assert "File too large" not in str(caught.value)
    assert zips.tree(tmp_path) == before
    assert not list(Path("/tmp").glob("evil*"))


def test_the_corpus_is_of_the_size_that_is_promised() -> None:
    assert len(CASES) >= 60
    assert len({recipe["case"] for recipe in CORPUS}) == len(CORPUS)
