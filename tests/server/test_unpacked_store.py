"""What archives unpack to, kept for later starts and shared by servers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flambeau.archive import digest, write_archive
from flambeau.errors import ArchiveError
from flambeau.manifest import Manifest
from flambeau.store import ModelStore
from flambeau.unpack_limits import UnpackLimits
from flambeau.unpacked_store import UnpackedStore

LATER = 8 * 24 * 3600.0
LARGE = 64 << 20


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "store" / "digits.mar"
    path.parent.mkdir()
    manifest = Manifest(model_name="digits", handler="handler.py", serialized_file="model.pt")
    files: dict[str, Path | bytes] = {"handler.py": b"x = 1", "model.pt": b"weights"}
    write_archive(path, manifest=manifest, files=files, digests=True)
    return path


def opened(tmp_path: Path) -> ModelStore:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return ModelStore(tmp_path / "store", scratch=tmp_path / "scratch", kept=tmp_path / "kept")


def content_of(tmp_path: Path, archive: Path) -> Path:
    return tmp_path / "kept" / "sha256" / digest(archive) / "content"


def yes(file_list: bytes | None, signatures: bytes | None) -> bool:
    return False


def test_content_is_kept_read_only_and_used_again(archive: Path, tmp_path: Path) -> None:
    content = content_of(tmp_path, archive)
    with opened(tmp_path) as store:
        store.unpack(archive)
        store.unpack(archive)
        before = content.stat().st_ino
        assert oct((content / "model.pt").stat().st_mode) == oct(0o100444)
    with opened(tmp_path) as store:
        directory = store.unpack(archive).directory
        assert (directory / "model.pt").read_bytes() == b"weights"
    assert content.stat().st_ino == before
    assert list((tmp_path / "scratch").iterdir()) == []
    assert list((tmp_path / "kept" / "staging").iterdir()) == []


def test_each_version_may_write_where_it_is_unpacked(archive: Path, tmp_path: Path) -> None:
    """Handlers of TorchServe do: caches, downloaded tokenizers, compiled kernels."""
    with opened(tmp_path) as store:
        first, second = store.unpack(archive).directory, store.unpack(archive).directory
        (first / "model.pt").write_bytes(b"changed")
        (first / "cache").mkdir()
        assert (second / "model.pt").read_bytes() == b"weights"
        assert (content_of(tmp_path, archive) / "model.pt").read_bytes() == b"weights"
        third = store.unpack(archive).directory
        assert sorted(path.name for path in third.iterdir()) == [
            "MAR-INF",
            "handler.py",
            "model.pt",
        ]


def test_large_weights_are_on_the_disk_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(LARGE)
    manifest = Manifest(model_name="m", serialized_file="model.pt")
    path = tmp_path / "store" / "m.mar"
    write_archive(path, manifest=manifest, files={"model.pt": tmp_path / "weights"})
    with opened(tmp_path) as store:
        link = store.unpack(path).directory / "model.pt"
        assert link.samefile(content_of(tmp_path, path) / "model.pt")
        assert link.stat().st_size == LARGE


@pytest.mark.parametrize("fresh", [True, False], ids=["at the next start", "in the same process"])
def test_content_that_was_changed_is_unpacked_again(
    fresh: bool,  # noqa: FBT001  # a parameter of the test
    archive: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changed = content_of(tmp_path, archive) / "handler.py"
    with opened(tmp_path) as store:
        store.remove(store.unpack(archive).directory)
        times = changed.stat()
        changed.chmod(0o644)
        changed.write_bytes(b"x = 2")
        os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
        if not fresh:
            assert (store.unpack(archive).directory / "handler.py").read_bytes() == b"x = 1"
    if fresh:
        with opened(tmp_path) as store:
            assert (store.unpack(archive).directory / "handler.py").read_bytes() == b"x = 1"
    assert "was changed (entry 'handler.py' has SHA-256" in caplog.text


def test_content_that_was_changed_while_others_use_it_is_refused(
    archive: Path, tmp_path: Path
) -> None:
    changed = content_of(tmp_path, archive) / "handler.py"
    with opened(tmp_path) as user, opened(tmp_path) as other:
        directory = user.unpack(archive).directory
        changed.chmod(0o644)
        changed.write_bytes(b"x = 2")
        with pytest.raises(ArchiveError, match="was changed, and others use it"):
            other.unpack(archive)
        user.remove(directory)
        assert (other.unpack(archive).directory / "handler.py").read_bytes() == b"x = 1"


def test_what_is_used_is_not_collected(archive: Path, tmp_path: Path) -> None:
    kept = UnpackedStore(tmp_path / "kept", limits=UnpackLimits())
    first, second = (kept.lease(archive, digest(archive), approve=yes) for _ in range(2))
    first.close()
    assert kept.collect(unused_s=0.0, now=1e12) == []
    second.close()
    used_at = (tmp_path / "kept" / "locks" / digest(archive)).stat().st_mtime
    assert kept.collect(now=used_at + LATER - 2 * 24 * 3600) == []
    assert kept.collect(now=used_at + LATER) == [digest(archive)]
    assert list((tmp_path / "kept" / "sha256").iterdir()) == []
    kept.lease(archive, digest(archive), approve=yes).close()


def test_many_threads_of_several_servers_unpack_it_once(archive: Path, tmp_path: Path) -> None:
    stores = [opened(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(store.unpack, archive) for store in stores * 4]
        made = [each.result().directory for each in pending]
    assert {(path / "model.pt").read_bytes() for path in made} == {b"weights"}
    assert len(set(made)) == 16
    for store in stores:
        store.close()


HOLDER = """
import sys, time
from pathlib import Path
from flambeau.archive import digest
from flambeau.unpack_limits import UnpackLimits
from flambeau.unpacked_store import UnpackedStore
kept = UnpackedStore(Path(sys.argv[1]), limits=UnpackLimits())
archive = Path(sys.argv[2])
kept.lease(archive, digest(archive), approve=lambda *_: False)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(archive: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "kept"), str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_killed_server_holds_nothing(
    holder: subprocess.Popen[bytes], archive: Path, tmp_path: Path
) -> None:
    left = tmp_path / "kept" / "staging" / f"{digest(archive)}-left"
    left.mkdir()
    kept = UnpackedStore(tmp_path / "kept", limits=UnpackLimits())
    assert kept.collect(unused_s=0.0) == []
    assert left.exists()  # its lock is held, so it may be somebody's
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert kept.collect(unused_s=0.0, now=1e12) == [digest(archive)]
    assert not left.exists()


def test_a_refused_archive_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    kept = UnpackedStore(tmp_path / "kept", limits=UnpackLimits(max_total_bytes=1))
    with pytest.raises(ArchiveError, match="at most 1 are unpacked"):
        kept.lease(archive, digest(archive), approve=yes)
    for folder in ("sha256", "staging"):
        assert list((tmp_path / "kept" / folder).iterdir()) == []


def test_a_directory_that_cannot_be_written_says_so(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    with opened(tmp_path) as store, pytest.raises(ArchiveError, match="let unpack_store be"):
        store.unpack(archive)
    assert [p for p in (tmp_path / "scratch").rglob("*") if p.is_file()] == []


def test_a_full_disk_leaves_nothing_and_says_so(archive: Path, tmp_path: Path) -> None:
    """Files over 4 bytes do not fit, as if the disk were full."""
    program = (
        "import resource, sys; from pathlib import Path; from flambeau.archive import digest\n"
        "from flambeau.unpacked_store import UnpackedStore\n"
        "from flambeau.unpack_limits import UnpackLimits\n"
        "kept, archive = map(Path, sys.argv[1:]); sha256 = digest(archive)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))\n"
        "UnpackedStore(kept, limits=UnpackLimits()).lease(archive, sha256, approve=lambda *_: 0)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "kept"), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr.splitlines()[-1]
    for folder in ("sha256", "staging"):
        assert list((tmp_path / "kept" / folder).iterdir()) == []
    shutil.rmtree(tmp_path / "kept")
