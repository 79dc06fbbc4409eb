"""What the two archivers share: names, the files that go in, and the formats they are written in.

Nothing is staged: files are read from where they are, so two runs never meet, and large weights are
copied once.
"""

from __future__ import annotations

import glob
import gzip
import logging
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias, cast

from flambeau.archive import write_zip_entry
from flambeau.errors import ArchiveError, FlambeauError
from flambeau.unpack_limits import UnpackLimits, check_names
from flambeau.written_aside import written_aside

Files: TypeAlias = dict[str, Path]  # by name in the archive, `/` between parts

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_UNWANTED = {"__MACOSX", "__pycache__"}
_GZIP_LEVEL = 6  # weights hardly compress at any


class ModelArchiverError(FlambeauError):
    """An archive cannot be made of what was given."""


class ArchiveFormat(str, Enum):
    """The values of `--archive-format`."""

    DEFAULT = "default"
    ZIP_STORE = "zip-store"
    TGZ = "tgz"
    NO_ARCHIVE = "no-archive"

    @property
    def suffix(self) -> str:
        """What follows the model's name in the artefact's."""
        return {ArchiveFormat.TGZ: ".tar.gz", ArchiveFormat.NO_ARCHIVE: ""}.get(self, ".mar")


def check_name(name: str, *, what: str) -> None:
    """Refuse a name that could not be a file's or a part of an address.

    Raises:
        ModelArchiverError: It has other characters than the archivers allow.
    """
    if not _NAME.fullmatch(name):
        raise ModelArchiverError(
            f"{what} name {name!r} contains special characters; the allowed ones are "
            f"^{_NAME.pattern}$"
        )


def existing(path: str) -> Path:
    """A file that must be there.

    Raises:
        FileNotFoundError: It is not, or is no file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"File does not exist: {path}")
    return Path(path)


def target_in(directory: str | None, name: str, *, force: bool) -> Path:
    """Where the artefact goes.

    Raises:
        ModelArchiverError: The directory is none, or the artefact exists and is to be kept.
    """
    parent = Path(directory or ".").absolute()
    if not parent.is_dir():
        raise ModelArchiverError(
            f"the export path {directory} is not a directory; make it, or give another"
        )
    target = parent / name
    if target.exists():
        if not force:
            raise ModelArchiverError(
                f"{target} already exists; give --force/-f to overwrite it, or another name"
            )
        _log.warning("overwriting %s", target)
    return target


def extra_files(text: str | None, *, without: Path) -> Files:
    """The files of `--extra-files`: a directory's content goes to the archive's root.

    Args:
        text: Files, directories and wildcard patterns, separated by commas.
        without: The artefact of an earlier run, which never becomes part of the next.

    Raises:
        FileNotFoundError: A path that is not a pattern does not exist.
    """
    files: Files = {}
    for part in (text or "").split(","):
        if pattern := part.strip():
            for path in _matches(pattern):
                for name, source in below(path) if path.is_dir() else [(path.name, path)]:
                    if source.absolute() != without and without not in source.absolute().parents:
                        add(files, name, source)
    return files


def below(directory: Path) -> Iterator[tuple[str, Path]]:
    """The files below a directory by their relative names; links are followed, once."""
    yield from _below(directory, "", [directory.resolve()])


def add(files: Files, name: str, source: Path) -> None:
    """Enter a file; the later of two different ones wins, with a warning."""
    if name in files and not files[name].samefile(source):
        _log.warning("%s replaces %s as %s in the archive", source, files[name], name)
    files[name] = source


def write(
    target: Path, files: Mapping[str, Path | bytes], archive_format: ArchiveFormat, *, top: str
) -> None:
    """Write the artefact; it appears complete, except that a directory is filled file by file.

    Args:
        target: The file or directory.
        files: Content by name in the archive.
        archive_format: How it is packed.
        top: The directory that everything is in, in a tar file.

    Raises:
        ModelArchiverError: A name could not be unpacked again.
        OSError: Something cannot be read or written.
    """
    try:
        check_names([(name, False) for name in files], limits=UnpackLimits())
    except ArchiveError as error:
        raise ModelArchiverError(str(error)) from error
    if archive_format is ArchiveFormat.NO_ARCHIVE:
        for name, source in files.items():
            _copy(source, target / name)
    elif archive_format is ArchiveFormat.TGZ:
        with written_aside(target) as file:
            _write_tar(file, files, top)
    else:
        deflate = archive_format is ArchiveFormat.DEFAULT
        with written_aside(target) as file, zipfile.ZipFile(file, "w") as zipped:
            for name, source in files.items():
                write_zip_entry(zipped, name, source, deflate=deflate)


def _matches(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        return [Path(pattern)]
    if not glob.has_magic(pattern):
        raise FileNotFoundError(f"File does not exist: {pattern}")
    found = [Path(path) for path in sorted(glob.glob(pattern))]  # noqa: PTH207  # absolute ones too
    if not found:
        _log.warning("no file matches the pattern %s", pattern)
    return found


def _below(directory: Path, prefix: str, parents: list[Path]) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.iterdir()):
        if not path.is_dir():
            yield prefix + path.name, existing(str(path))
        elif path.name not in _UNWANTED and not path.name.startswith("."):
            resolved = path.resolve()
            if resolved in parents:
                raise ModelArchiverError(f"{path} is a link to a directory it is in; remove it")
            yield from _below(path, f"{prefix}{path.name}/", [*parents, resolved])


def _copy(source: Path | bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        target.write_bytes(source)
    elif not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)


def _write_tar(file: IO[bytes], files: Mapping[str, Path | bytes], top: str) -> None:
    with (
        gzip.GzipFile(
            filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0
        ) as z,
        tarfile.open(fileobj=cast("IO[bytes]", z), mode="w") as tar,
    ):
        for name, source in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            data = BytesIO(source) if isinstance(source, bytes) else source.open("rb")
            with data:
                info.size = len(source) if isinstance(source, bytes) else source.stat().st_size
                tar.addfile(info, data)
