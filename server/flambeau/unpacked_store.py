"""What archives unpack to, kept under their SHA-256 for the next start and for other servers.

    <root>/sha256/<hex>/content/      the files, read-only
    <root>/sha256/<hex>/files.json    their sizes and digests, as they were written
    <root>/locks/<hex>                held shared by whoever uses the content, alone to change it
    <root>/staging/<hex>-<unique>/    being written, by the holder of the exclusive lock

Content appears complete and on disk, by a rename, and is never changed. It is removed when nobody
uses it and it has not been used for a week, or when the room is needed. Locks are the kernel's, so
those of a server that was killed are gone with it. The directory must be on a local disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from flambeau.archive import Approve, list_files, read_manifest, unpack
from flambeau.errors import ArchiveError
from flambeau.file_digests import (
    FILES_PATH,
    SIGNATURES_PATH,
    check_files,
    list_of_files,
    read_list,
)
from flambeau.manifest import Manifest
from flambeau.unpack_limits import UnpackLimits
from flambeau.unpacked_tree import Written, check_container, measure_tree

_log = logging.getLogger(__name__)

_KEPT_S = 7 * 24 * 3600.0
_LOOK_AGAIN_S = 0.05
_CONTENT, _RECORD = "content", "files.json"

Fingerprint: TypeAlias = dict[str, tuple[int, int, int, int]]
"""By name: inode, size, and the times of the last change of content and of anything."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use an archive's content until it is closed.

    Attributes:
        content: The files; not to be changed.
        manifest: What the archive says about itself.
        lock: The descriptor that holds the lock.
    """

    content: Path
    manifest: Manifest
    lock: int

    def close(self) -> None:
        """The content may be removed now, unless others use it."""
        os.utime(self.lock)  # so that the week begins anew
        os.close(self.lock)


class UnpackedStore:
    """One such directory, which other processes may use at the same time."""

    def __init__(self, root: Path, *, limits: UnpackLimits) -> None:
        """Use `root`; it is made when it is needed.

        Args:
            root: On a local disk.
            limits: The most one archive may take unpacked.
        """
        self._root = root
        self._limits = limits
        # for the life of the process: what was read and found right
        self._seen: dict[str, Fingerprint] = {}
        self._lock = threading.Lock()

    def lease(
        self,
        archive: Path,
        sha256: str,
        *,
        approve: Approve,
        stopping: threading.Event | None = None,
    ) -> Lease:
        """The content of an archive, unpacked now or before.

        Args:
            archive: The archive.
            sha256: Its digest.
            approve: Told its list of files and its signatures; may refuse it.
            stopping: Gives up when it is set.

        Raises:
            ArchiveError: It is refused or unsafe, there is no room, or its content here was changed
                while others use it.
        """
        try:
            for folder in ("sha256", "locks", "staging"):
                (self._root / folder).mkdir(parents=True, exist_ok=True)
            while True:
                lock = self._locked(sha256, fcntl.LOCK_SH, stopping)
                assert lock is not None  # only whoever would change it does without
                try:
                    if self._is_sound(archive, sha256, approve, lock=lock):
                        os.utime(lock)
                        content = self._entry(sha256) / _CONTENT
                        return Lease(content, read_manifest(archive), lock)
                except BaseException:
                    os.close(lock)
                    raise
                os.close(lock)
                self._make(archive, sha256, approve=approve, stopping=stopping)
        except OSError as error:
            raise ArchiveError(
                f"{archive} cannot be unpacked into {self._root}: {error}; make room there, or let "
                "unpack_store be a directory that can be written"
            ) from error

    def collect(self, *, unused_s: float = _KEPT_S, now: float | None = None) -> list[str]:
        """Remove what nobody uses and has not been used for so long, and what a crash left.

        Args:
            unused_s: Seconds.
            now: The time; None reads the clock.

        Returns:
            The digests of what was removed.
        """
        now = time.time() if now is None else now
        removed: list[str] = []
        for path in _children(self._root / "sha256"):
            with self._exclusively(path.name) as used_at:
                if used_at is not None and now - used_at >= unused_s:
                    self._remove(path.name)
                    removed.append(path.name)
        for path in _children(self._root / "staging"):
            with self._exclusively(path.name.partition("-")[0]) as used_at:
                if used_at is not None:
                    shutil.rmtree(path, ignore_errors=True)
        return removed

    def _entry(self, sha256: str) -> Path:
        return self._root / "sha256" / sha256

    def _make(
        self, archive: Path, sha256: str, *, approve: Approve, stopping: threading.Event | None
    ) -> None:
        """Unpack the archive, unless somebody has done so meanwhile."""
        needed_bytes = sum(list_files(archive).values())
        if needed_bytes > shutil.disk_usage(self._root).free:
            self.collect(unused_s=0.0)
        lock = self._locked(sha256, fcntl.LOCK_EX, stopping)
        if lock is None:
            return
        try:
            for path in _children(self._root / "staging"):
                if path.name.startswith(sha256):  # of a process that was killed
                    shutil.rmtree(path, ignore_errors=True)
            if self._entry(sha256).exists():
                if (self._entry(sha256) / _CONTENT).is_dir():
                    return
                self._remove(sha256)
            staging = Path(tempfile.mkdtemp(prefix=f"{sha256}-", dir=self._root / "staging"))
            try:
                content = staging / _CONTENT
                unpack(archive, content, limits=self._limits, stopping=stopping, approve=approve)
                files = measure_tree(content, stopping=stopping)
                digests = {name: file.digest for name, file in files.items()}
                (staging / _RECORD).write_bytes(list_of_files(digests))
                _make_durable(staging)
                staging.rename(self._entry(sha256))
                _sync(self._root / "sha256")
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            with self._lock:
                self._seen[sha256] = _fingerprint(self._entry(sha256) / _CONTENT)
        finally:
            os.close(lock)

    def _is_sound(self, archive: Path, sha256: str, approve: Approve, *, lock: int) -> bool:
        """Whether the content is there and as it was written; removes it if it is not.

        All of it is read once in a process's life, and again when a file's inode, size or times
        say that something has touched it.

        Raises:
            ArchiveError: The archive is not approved, or its content is used by others and changed.
        """
        content = self._entry(sha256) / _CONTENT
        if not content.is_dir():
            return False
        texts = {name: _text(content / name) for name in (FILES_PATH, SIGNATURES_PATH)}
        is_signed = approve(texts[FILES_PATH], texts[SIGNATURES_PATH])
        now = _fingerprint(content)
        with self._lock:
            if self._seen.get(sha256) == now:
                return True
        try:
            files = measure_tree(content)
            self._check(sha256, texts[FILES_PATH], files)
        except (ArchiveError, OSError) as error:
            if not _try_lock(lock, fcntl.LOCK_EX):
                raise ArchiveError(
                    f"{content} was changed, and others use it ({error}); unregister what was made "
                    "of this archive, and register it again"
                ) from error
            self._remove(sha256)
            _log.warning("%s was changed (%s); %s is unpacked again", content, error, archive)
            return False
        if is_signed:
            check_container(archive, content, files, None)
        with self._lock:
            self._seen[sha256] = now
        return True

    def _check(self, sha256: str, file_list: bytes | None, files: dict[str, Written]) -> None:
        digests = {name: file.digest for name, file in files.items()}
        check_files(read_list((self._entry(sha256) / _RECORD).read_bytes()), digests)
        if file_list is not None:
            check_files(read_list(file_list), digests)

    def _remove(self, sha256: str) -> None:
        """Take it out of sight first, so that a crash leaves no half of it there."""
        grave = Path(tempfile.mkdtemp(prefix=f"{sha256}-", dir=self._root / "staging"))
        with contextlib.suppress(FileNotFoundError):
            self._entry(sha256).rename(grave / _CONTENT)
        shutil.rmtree(grave, ignore_errors=True)

    @contextlib.contextmanager
    def _exclusively(self, sha256: str) -> Generator[float | None]:
        """When the content was used last, while nobody can use it; None when somebody does."""
        descriptor = os.open(self._root / "locks" / sha256, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield os.fstat(descriptor).st_mtime if _try_lock(descriptor, fcntl.LOCK_EX) else None
        finally:
            os.close(descriptor)

    def _locked(self, sha256: str, kind: int, stopping: threading.Event | None) -> int | None:
        """The descriptor of the lock, once it is held.

        Returns:
            None when the content is there and used, so that nobody can change it, nor needs to.

        Raises:
            ArchiveError: The server is stopping.
        """
        descriptor = os.open(self._root / "locks" / sha256, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not _try_lock(descriptor, kind):
                if kind == fcntl.LOCK_EX and (self._entry(sha256) / _CONTENT).is_dir():
                    os.close(descriptor)
                    return None
                if (stopping or threading.Event()).wait(_LOOK_AGAIN_S):
                    raise ArchiveError("the server is stopping")  # noqa: TRY301  # closed below
        except ArchiveError:
            os.close(descriptor)
            raise
        return descriptor


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _children(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _text(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _fingerprint(root: Path) -> Fingerprint:
    found: Fingerprint = {}
    for path in root.rglob("*"):
        status = path.lstat()
        if not path.is_dir():
            times = status.st_mtime_ns, status.st_ctime_ns
            found[path.relative_to(root).as_posix()] = (status.st_ino, status.st_size, *times)
    return found


def _make_durable(root: Path) -> None:
    """Make files read-only, and bring all of it to the disk."""
    for path in [*root.rglob("*"), root]:
        if not path.is_dir():
            path.chmod(0o444)
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
