"""The model store: the one directory whose archives may be registered, and where they unpack.

A registration's `url` is only ever compared with the names of the directory's top-level entries,
never made into a path, so no spelling of it leaves the store. The messages are TorchServe's.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from flambeau.archive import digest, unpack
from flambeau.errors import ArchiveError, ModelNotFound
from flambeau.manifest import Manifest
from flambeau.unpack_limits import UnpackLimits
from flambeau.written_aside import written_aside

ARCHIVE_SUFFIX = ".mar"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """An archive's content in a directory of its own.

    Attributes:
        directory: Where it is.
        digest: The archive's sha256, in hexadecimal.
        manifest: What the archive says about itself.
    """

    directory: Path
    digest: str
    manifest: Manifest


class ModelStore:
    """Archives in one directory, and a scratch directory for what is unpacked from them.

    A context manager: leaving it removes everything it unpacked. Links in the directory are not
    archives and are never followed; the directory itself may be reached through one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        scratch: Path | None = None,
        limits: UnpackLimits | None = None,
    ) -> None:
        """Open a store; nothing is read or written yet.

        Args:
            directory: Holds the archives; created by the first `add`.
            scratch: Parent of the directory that models are unpacked into; None means the system's
                directory for temporary files.
            limits: The most one archive may take unpacked; None means `UnpackLimits()`.
        """
        self.directory = directory
        self._limits = limits or UnpackLimits()
        self._scratch_parent = scratch
        self._scratch: Path | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> ModelStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def names(self) -> list[str]:
        """What `find` finds, sorted: `.mar` files and directories, hidden ones left out.

        A store that does not exist is empty.
        """
        try:
            entries = list(self.directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.name for path in entries if _is_archive(path))

    def find(self, url: str) -> Path:
        """The archive that a registration's `url` names.

        Raises:
            ModelNotFound: There is none, or `url` is more than a plain name.
        """
        if not url:
            raise ModelNotFound("empty url")
        if ".." in url:
            raise ModelNotFound(f"Relative path is not allowed in url: {url}")
        if _SCHEME.match(url):
            raise ModelNotFound(f"Given URL {url} does not match any allowed URL(s)")
        if url not in self.names():
            raise ModelNotFound(f"Model not found at: {url}")
        return self.directory / url

    def add(self, path: Path, *, name: str | None = None, overwrite: bool = False) -> Path:
        """Copy an archive file into the store; it appears complete or not at all.

        Does nothing when the store has it already under that name, with the same content.

        Args:
            path: A zip archive.
            name: Its name in the store, ending in `.mar`; None keeps the file's own.
            overwrite: Replace other content under that name.

        Returns:
            The archive's path in the store.

        Raises:
            ArchiveError: The name is not a plain `.mar` name, the file cannot be read, or the store
                has other content under the name.
        """
        name = path.name if name is None else name
        if Path(name).name != name or name.startswith(".") or not name.endswith(ARCHIVE_SUFFIX):
            raise ArchiveError(f"{name!r} is no name for an archive; use one like 'digits.mar'")
        target = self.directory / name
        if target.exists():
            if digest(target) == digest(path):
                return target
            if not overwrite:
                raise ArchiveError(
                    f"{target} exists and differs from {path}; give another name, or overwrite it"
                )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, written_aside(target) as copy:
                shutil.copyfileobj(source, copy)
        except OSError as error:
            raise ArchiveError(f"{path} cannot be copied to {target}: {error}") from error
        return target

    def unpack(self, archive_path: Path) -> Unpacked:
        """Unpack an archive into a new directory of its own.

        Returns:
            Where it is, `<scratch>/<first 16 digits of the archive's sha256>-<unique>`, and what
            was learnt on the way. The caller may remove the directory sooner than `close` does.

        Raises:
            ArchiveError: Not an archive, or unsafe to unpack; nothing is left behind.
        """
        if archive_path.is_symlink():
            raise ArchiveError(f"{archive_path} is a link; put the archive itself there")
        sha256 = digest(archive_path)
        with self._lock:  # models are unpacked by several threads at a time
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="flambeau-", dir=self._scratch_parent))
        into = Path(tempfile.mkdtemp(prefix=f"{sha256[:16]}-", dir=self._scratch))
        try:
            manifest = unpack(archive_path, into, limits=self._limits)
        except BaseException:
            into.rmdir()
            raise
        return Unpacked(directory=into, digest=sha256, manifest=manifest)

    def close(self) -> None:
        """Remove everything that was unpacked; the store can be used again."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


def _is_archive(path: Path) -> bool:
    if path.name.startswith(".") or path.is_symlink():
        return False
    return path.is_dir() or (path.name.endswith(ARCHIVE_SUFFIX) and path.is_file())
