"""A model archive on disk: write one, read its manifest, unpack it.

An archive is what TorchServe calls a `.mar`: a zip file with the payload at its root and
`MAR-INF/MANIFEST.json`; what else we know about a model lies beside the manifest, under the names
in `signature.py`. A gzip-compressed tar file and a directory with the same content
(torch-model-archiver's `tgz` and `no-archive` formats) are read as well. What is safe to unpack is
decided in `unpack_limits.py`, `zip_entries.py` and `tar_entries.py`; which archives there are, in
`store.py`.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

from flambeau.archive_content import Item, opened
from flambeau.certificate import check_certificate
from flambeau.errors import ArchiveError
from flambeau.file_digests import (
    FILES_PATH,
    SIGNATURES_PATH,
    FileDigest,
    list_of_files,
    read_list,
)
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.unpack_limits import UnpackLimits, check_names
from flambeau.unpacked_tree import check_container, check_written, is_linked, unless, write_tree
from flambeau.written_aside import written_aside

Approve: TypeAlias = Callable[[bytes | None, bytes | None], bool]
"""Told an archive's list of files and its signatures, before anything is unpacked.

Returns whether a signature counts, so that every byte of the archive must be as signed; raises
ArchiveError to refuse the archive.
"""

_COPY_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip file can tell
_TEXT_SUFFIXES = frozenset({".csv", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"})
_MAX_DEFLATED_BYTES = 1 << 20
_MAX_METADATA_BYTES = 64 << 20
_READING = UnpackLimits(max_total_bytes=1 << 62)  # what is not unpacked takes no room


def write_archive(
    path: Path,
    *,
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    overwrite: bool = False,
    digests: bool = False,
) -> str:
    """Write a zip archive; equal content gives equal bytes.

    The file appears under its name only when it is complete and on disk. Text up to 1 MiB is
    deflated, everything else is stored as it is: weights hardly compress.

    Args:
        path: The archive, usually `<name>.mar`; its directory exists.
        manifest: Written as `MAR-INF/MANIFEST.json`.
        files: Content by name in the archive, `/` between parts.
        overwrite: Replace an existing file.
        digests: List every file's SHA-256 in `MAR-INF/files.json`, against which it is unpacked.

    Returns:
        The file's sha256, in hexadecimal.

    Raises:
        ArchiveError: `path` exists or cannot be written, a name could not be unpacked again, or the
            manifest names a file that is not in `files`.
    """
    if path.exists() and not overwrite:
        raise ArchiveError(f"{path} exists; choose another path, or say overwrite (--force)")
    check_names([(name, False) for name in (MANIFEST_PATH, *files)], limits=UnpackLimits())
    _check_complete(manifest, files)
    content = {MANIFEST_PATH: manifest.to_json().encode(), **dict(sorted(files.items()))}
    try:
        if digests:
            content[FILES_PATH] = list_of_sources(content)
        with written_aside(path) as file:
            with zipfile.ZipFile(file, "w") as zipped:
                for name, source in content.items():
                    write_zip_entry(zipped, name, source, deflate=_is_text(name, source))
            file.seek(0)
            return _sha256(iter(partial(file.read, _COPY_BYTES), b""))
    except OSError as error:
        raise ArchiveError(f"{path} cannot be written: {error}") from error


def list_of_sources(files: Mapping[str, Path | bytes]) -> bytes:
    """`MAR-INF/files.json` of files that are not in an archive yet.

    Raises:
        OSError: One of them cannot be read.
    """
    listed: dict[str, FileDigest] = {}
    for name, source in files.items():
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            sha256 = _sha256(iter(partial(file.read, _COPY_BYTES), b""))
        listed[name] = FileDigest(_size(source), sha256)
    return list_of_files(listed)


def write_zip_entry(
    zipped: zipfile.ZipFile, name: str, source: Path | bytes, *, deflate: bool
) -> None:
    """Write one file into a zip archive; equal content gives equal bytes."""
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system = 3  # Unix, on every system, for equal bytes
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = _size(source)  # tells zipfile whether zip64 is needed
    if deflate:
        info.compress_type = zipfile.ZIP_DEFLATED
    content = BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with content, zipped.open(info, "w") as target:
        shutil.copyfileobj(content, target, _COPY_BYTES)


def read_manifest(path: Path) -> Manifest:
    """The manifest of an archive; one that has none says nothing about itself.

    Raises:
        ArchiveError: No such archive, not an archive, unsafe to unpack, or its manifest is invalid.
    """
    with opened(path, _READING) as content:
        return _manifest(content)


def read_file(path: Path, name: str) -> bytes | None:
    """One small file of an archive, e.g. `MAR-INF/signature.json`.

    Returns:
        The file's bytes; None when the archive has no file of this name.

    Raises:
        ArchiveError: No such archive, unsafe to unpack, or the file is over 64 MiB.
    """
    with opened(path, _READING) as content:
        return _read(content, name)


def list_files(path: Path) -> dict[str, int]:
    """The size in bytes of every file of an archive, by name, in the archive's order.

    Raises:
        ArchiveError: No such archive, or unsafe to unpack.
    """
    with opened(path, _READING) as content:
        return {item.name: item.size_bytes for item in content if not item.is_dir}


def unpack(
    path: Path,
    into: Path,
    *,
    limits: UnpackLimits | None = None,
    stopping: threading.Event | None = None,
    approve: Approve | None = None,
) -> Manifest:
    """Unpack an archive file, or copy an archive directory, all or nothing.

    All names, modes and promised sizes are checked first; then the files are written to a hidden
    directory beside `into` while their real bytes are counted; then that directory is renamed.
    Directories get mode 0755 and files 0644, whatever the archive says.

    A directory is copied rather than used in place, so that nobody changes a model that is being
    served. Its files of 64 MiB and more are linked instead: weights may fill the disk once, not
    twice, so whoever replaces them writes a new file.

    An archive that lists its files' digests (`MAR-INF/files.json`) is held against the list while
    it is written, so what was checked is what is used; all of its files are copied then. So are the
    samples and programs of a certificate (`MAR-INF/parity.json`).

    Args:
        path: The archive.
        into: Where the content goes; must not exist, or be an empty directory.
        limits: The most it may take; None means `UnpackLimits()`.
        stopping: Gives up when it is set.
        approve: Asked before anything is unpacked; None takes whatever there is.

    Returns:
        The archive's manifest; without one, TorchServe's defaults.

    Raises:
        ArchiveError: Not an archive, unsafe to unpack, other than it says, or not approved; nothing
            is left behind.
    """
    with opened(path, limits or UnpackLimits()) as content:
        manifest = _manifest(content)
        file_list = _read(content, FILES_PATH)
        listed = None if file_list is None else read_list(file_list)
        signatures = _read(content, SIGNATURES_PATH)
        is_signed = approve is not None and approve(file_list, signatures)
        linking = listed is None  # what is checked must not be anybody else's to change
        needed_bytes = sum(i.size_bytes for i in content if not (linking and is_linked(i)))
        free_bytes = shutil.disk_usage(into.parent).free
        if needed_bytes > free_bytes:
            raise ArchiveError(
                f"unpacking takes {needed_bytes} bytes and {into.parent} has {free_bytes} free; "
                "make room there"
            )
        staging = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into.parent))
        try:
            written = write_tree(content, staging, stopping, linking=linking)
            if listed is not None:
                check_written(listed, {FILES_PATH: file_list, SIGNATURES_PATH: signatures}, written)
            if is_signed and not path.is_dir():
                check_container(path, staging, written, stopping)
            check_certificate(staging, listed=listed)
            staging.rename(into)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return manifest


def digest(path: Path, *, stopping: threading.Event | None = None) -> str:
    """The sha256 of an archive, in hexadecimal; reads all of it, unless `stopping` is set.

    For a directory it covers the names and contents of all files in it, whatever their order.

    Raises:
        ArchiveError: No such archive, or a directory that is unsafe to copy.
    """
    if not path.is_dir():
        try:
            with path.open("rb") as file:
                pieces = iter(partial(file.read, _COPY_BYTES), b"")
                return _sha256(unless(stopping, pieces))
        except OSError as error:
            raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
    with opened(path, _READING) as content:
        lines = [
            f"{item.name} {_sha256(unless(stopping, item.pieces()))}\n"
            for item in content
            if not item.is_dir
        ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _manifest(content: list[Item]) -> Manifest:
    text = _read(content, MANIFEST_PATH)
    return Manifest() if text is None else Manifest.from_json(text)


def _read(content: list[Item], name: str) -> bytes | None:
    item = next((item for item in content if item.name == name and not item.is_dir), None)
    if item is None:
        return None
    if item.size_bytes > _MAX_METADATA_BYTES:
        raise ArchiveError(
            f"entry {name!r} has {item.size_bytes} bytes, over {_MAX_METADATA_BYTES}; "
            "build the archive again"
        )
    return b"".join(item.pieces())


def _is_text(name: str, source: Path | bytes) -> bool:
    return Path(name).suffix in _TEXT_SUFFIXES and _size(source) <= _MAX_DEFLATED_BYTES


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _check_complete(manifest: Manifest, files: Mapping[str, Path | bytes]) -> None:
    named = (
        manifest.serialized_file,
        manifest.model_file,
        manifest.requirements_file,
        manifest.config_file,
    )
    for name in named:
        if name is not None and name not in files:
            raise ArchiveError(f"the manifest names {name!r}, which is not among the files")


def _sha256(pieces: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()
