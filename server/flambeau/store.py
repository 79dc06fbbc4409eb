"""The model store: the one directory whose archives may be registered, and where they unpack.

A registration's `url` is only ever compared with the names of the directory's top-level entries,
never made into a path that is opened, so no spelling of it leaves the store. The messages are
TorchServe's. What other urls may bring into the store is in `downloads.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from flambeau.archive import digest, unpack
from flambeau.archive_content import is_gzip
from flambeau.errors import ArchiveError, ModelNotFound
from flambeau.manifest import Manifest
from flambeau.signing import UNCHECKED, Trust, Verdict
from flambeau.unpack_limits import UnpackLimits
from flambeau.unpacked_tree import copy_writable
from flambeau.written_aside import written_aside

if TYPE_CHECKING:
    from flambeau.unpacked_store import Lease, UnpackedStore

ARCHIVE_SUFFIX = ".mar"
_LISTED_SUFFIXES = (ARCHIVE_SUFFIX, ".tar.gz", ".model")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """An archive's content in a directory of its own.

    Attributes:
        directory: Where it is; its owner may write there.
        digest: The archive's sha256, in hexadecimal.
        manifest: What the archive says about itself.
        verdict: What is known of its signatures.
    """

    directory: Path
    digest: str
    manifest: Manifest
    verdict: Verdict


class ModelStore:
    """Archives in one directory, and a scratch directory for what is unpacked from them.

    A context manager: leaving it removes everything it unpacked. A link in the directory is an
    archive if what it leads to is in the directory too, as in a volume that Kubernetes mounts; no
    other link is followed. The directory itself may be reached through one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        scratch: Path | None = None,
        limits: UnpackLimits | None = None,
        trust: Trust | None = None,
        kept: Path | None = None,
    ) -> None:
        """Open a store; nothing is read or written yet.

        Args:
            directory: Holds the archives; created by the first `add`.
            scratch: Parent of the directory that models are unpacked into; None means the system's
                directory for temporary files.
            limits: The most one archive may take unpacked; None means `UnpackLimits()`.
            trust: Who may sign archives, and whether somebody must; None does not ask.
            kept: Where archive files' contents stay for the next start; None keeps nothing.
        """
        self.directory = directory
        self._limits = limits or UnpackLimits()
        self._trust = trust or Trust()
        self._kept_in = kept
        self._kept: UnpackedStore | None = None
        self._leases: dict[Path, Lease] = {}  # by the directory that was made of them
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
        """What `all` means, sorted: files `.mar`, `.tar.gz` and `.model`, and directories.

        Hidden ones are left out. A store that does not exist is empty.
        """
        found = self._entries()
        return [
            path.name for path in found if path.name.endswith(_LISTED_SUFFIXES) or path.is_dir()
        ]

    def find(self, url: str) -> Path:
        """The archive that a registration's `url` names: one of `names`, or any gzip file.

        Args:
            url: Its name, or its path, which TorchServe's users write as well.

        Raises:
            ModelNotFound: There is none in the store.
        """
        check_url(url)
        if has_scheme(url):
            raise not_allowed(url)
        name = self._name_of(url)
        path = next((path for path in self._entries() if path.name == name), None)
        if path is None or not _is_archive(path):
            raise ModelNotFound(f"Model not found at: {url}")
        return path

    def add(self, path: Path, *, name: str | None = None, overwrite: bool = False) -> Path:
        """Copy an archive file into the store; it appears complete or not at all.

        Does nothing when the store has it already under that name, with the same content.

        Args:
            path: An archive file.
            name: Its name in the store, ending in `.mar`, `.tar.gz` or `.model`; None keeps the
                file's own.
            overwrite: Replace other content under that name.

        Returns:
            The archive's path in the store.

        Raises:
            ArchiveError: The name is not a plain one of these, the file cannot be read, or the
                store has other content under the name.
        """
        name = path.name if name is None else name
        if Path(name).name != name or name.startswith(".") or not name.endswith(_LISTED_SUFFIXES):
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

    def unpack(self, archive_path: Path, *, stopping: threading.Event | None = None) -> Unpacked:
        """Unpack an archive into a new directory of its own.

        Args:
            archive_path: The archive.
            stopping: Gives up when it is set.

        Returns:
            Where it is, `<scratch>/<first 16 digits of the archive's sha256>-<unique>`, and what
            was learnt on the way. The caller may `remove` the directory sooner than `close` does.

        Raises:
            ArchiveError: Not an archive, unsafe to unpack, other than it says, or not signed as
                `trust` asks; nothing is left behind.
        """
        if archive_path.is_symlink() and not self._is_inside(archive_path):
            raise ArchiveError(f"{archive_path} is a link; put the archive itself there")
        before = _fingerprint(archive_path)
        sha256 = digest(archive_path, stopping=stopping)
        with self._lock:  # models are unpacked by several threads at a time
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="flambeau-", dir=self._scratch_parent))
            if self._kept_in is not None and self._kept is None:
                self._kept = _opened(self._kept_in, self._limits)
        into = Path(tempfile.mkdtemp(prefix=f"{sha256[:16]}-", dir=self._scratch))
        verdict = UNCHECKED

        def approve(file_list: bytes | None, signatures: bytes | None) -> bool:
            nonlocal verdict
            verdict = self._trust.judge(file_list, signatures)
            return verdict.is_trusted

        try:
            if self._kept is None or archive_path.is_dir():
                manifest = unpack(
                    archive_path, into, limits=self._limits, stopping=stopping, approve=approve
                )
            else:
                lease = self._kept.lease(archive_path, sha256, approve=approve, stopping=stopping)
                self._leases[into] = lease
                manifest = lease.manifest
                copy_writable(lease.content, into)
            _check_unchanged(archive_path, before)
        except BaseException:
            self.remove(into)
            raise
        return Unpacked(directory=into, digest=sha256, manifest=manifest, verdict=verdict)

    def remove(self, directory: Path) -> None:
        """Remove what one archive was unpacked to."""
        shutil.rmtree(directory, ignore_errors=True)
        if (lease := self._leases.pop(directory, None)) is not None:
            lease.close()

    def close(self) -> None:
        """Remove everything that was unpacked, but what is kept; the store can be used again."""
        for directory in list(self._leases):
            self.remove(directory)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _entries(self) -> list[Path]:
        """The files and directories at its top that are not hidden, sorted by name."""
        try:
            entries = sorted(self.directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [
            path
            for path in entries
            if not path.name.startswith(".")
            and (path.is_file() or path.is_dir())
            and (not path.is_symlink() or self._is_inside(path))
        ]

    def _name_of(self, url: str) -> str:
        """The last part of a path to an entry of the store; anything else as it is."""
        parent, separator, name = url.rpartition("/")
        if not separator or "\0" in url:
            return url
        is_here = os.path.realpath(parent or "/") == os.path.realpath(self.directory)
        return name if is_here else url

    def _is_inside(self, path: Path) -> bool:
        """Whether a link leads to a place within the store, other than the store itself."""
        return self.directory.resolve() in path.resolve().parents


def _opened(root: Path, limits: UnpackLimits) -> UnpackedStore:
    from flambeau.unpacked_store import UnpackedStore  # noqa: PLC0415  # needs POSIX locks

    kept = UnpackedStore(root, limits=limits)
    kept.collect()
    return kept


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None for a directory."""
    try:
        status = path.stat()
    except OSError:
        return None  # whoever reads it next says so
    if stat.S_ISDIR(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _check_unchanged(path: Path, before: tuple[int, ...] | None) -> None:
    if _fingerprint(path) != before:
        raise ArchiveError(f"{path} changed while it was read; try again")


def check_url(url: str) -> None:
    """Refuse what no kind of url may be.

    Raises:
        ModelNotFound: Empty, or with `..` in it.
    """
    if not url:
        raise ModelNotFound("empty url")
    if ".." in url:
        raise ModelNotFound(f"Relative path is not allowed in url: {url}")


def has_scheme(url: str) -> bool:
    """Whether it is an address, as opposed to a name in the store."""
    return _SCHEME.match(url) is not None


def not_allowed(url: str) -> ModelNotFound:
    """The refusal of an address that `allowed_urls` does not list."""
    return ModelNotFound(f"Given URL {url} does not match any allowed URL(s)")


def _is_listed(path: Path) -> bool:
    return path.is_dir() or path.name.endswith(_LISTED_SUFFIXES)


def _is_archive(path: Path) -> bool:
    if _is_listed(path):
        return True
    try:
        with path.open("rb") as file:
            return is_gzip(file)
    except OSError:
        return False
