"""What a worker gives up before the model author's code runs in it.

At every level but `off` a worker takes limits upon itself that no handler should meet. `strict`
puts it behind a fence, too: of files only what it needs, no TCP, no signals to others. It contains
accidents and careless code; it is no sandbox for people who mean harm, and docs/operations.md says
so. Neither can be undone by the process, and both hold for all it starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import sys
import tempfile
from pathlib import Path
from typing import Final

from flambeau import landlock
from flambeau.messages import Isolation, IsolationLevel, LoadModel
from flambeau.own_paths import builtin_dir, cache_directory, library_directory

_PR_SET_NO_NEW_PRIVS: Final = 38  # <linux/prctl.h>
_CAPABILITY_VERSION: Final = 0x20080522  # <linux/capability.h>, version 3
_CAPABILITY_BYTES: Final = 24  # two sets of three words
_OOM_SCORE: Final = 500  # of 1000: when memory runs out, a worker goes before the front
_OOM_FILE: Final = Path("/proc/self/oom_score_adj")

# what programs, Python and PyTorch read of a system; of /etc, only what says nothing of its users
_SYSTEM: Final = (
    *("/bin", "/lib", "/lib32", "/lib64", "/sbin", "/usr", "/proc", "/sys", "/opt/nvidia"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"),
    *("/etc/localtime", "/etc/timezone", "/etc/mime.types", "/etc/os-release", "/etc/fonts"),
    *("/etc/OpenCL", "/etc/vulkan", "/etc/nvidia", "/run/nvidia-persistenced"),
)
_NETWORK: Final = (
    *("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"),
    *("/etc/services", "/etc/protocols", "/etc/ssl", "/etc/pki", "/etc/ca-certificates"),
)
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_GPU_DEVICES: Final = ("nvidia*", "nvidia-caps/*", "dri/*", "kfd")
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # semaphores of multiprocessing live there


def confine(load: LoadModel, *, max_abi: int = landlock.NEWEST) -> str:
    """Take the limits, and go behind a fence if the level is `strict`.

    Call it while the process has one thread.

    Args:
        load: The model, and what its worker may do.
        max_abi: The newest version of Landlock to use, for trying out what older kernels do.

    Returns:
        What holds now, for people.
    """
    isolation = load.isolation
    if isolation.level is IsolationLevel.OFF:
        return str(isolation.level)
    _limit(isolation)
    if isolation.level is not IsolationLevel.STRICT:
        return str(isolation.level)
    if isolation.scratch_dir:
        _use_scratch(Path(isolation.scratch_dir))
    _drop_capabilities()
    abi = min(landlock.kernel_abi(), max_abi)
    try:
        missing = landlock.restrict(_fence(load), abi=abi)
    except OSError as error:
        missing, abi = [f"everything ({error})"], 0
    kernel = f"Landlock {abi}" if abi else "without Landlock"
    return f"strict, {kernel}" + (f"; open: {', '.join(missing)}" if missing else "")


def _limit(isolation: Isolation) -> None:
    """Limits that hold for any worker; each is only ever lowered."""
    os.umask(0o077)
    _lower(resource.RLIMIT_CORE, 0)
    if isolation.max_open_files:
        _lower(resource.RLIMIT_NOFILE, isolation.max_open_files)
    if isolation.max_file_bytes:
        _lower(resource.RLIMIT_FSIZE, isolation.max_file_bytes)
    if isolation.max_processes and os.geteuid() != 0:  # it counts all of the user's, never root's
        _lower(resource.RLIMIT_NPROC, isolation.max_processes)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with contextlib.suppress(OSError, ValueError):  # a container may have no such file
            if int(_OOM_FILE.read_text(encoding="ascii")) < _OOM_SCORE:
                _OOM_FILE.write_text(str(_OOM_SCORE), encoding="ascii")


def _drop_capabilities() -> None:
    """Be root in name only; others have none anyway.

    Landlock keeps a process from looking into those outside, but the kernel lets whoever may
    measure them (CAP_PERFMON) read their environment all the same.
    """
    if sys.platform == "linux":
        header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
        ctypes.CDLL(None).capset(header, bytes(_CAPABILITY_BYTES))


def _lower(kind: int, limit: int) -> None:
    soft, hard = (
        limit if value == resource.RLIM_INFINITY else min(value, limit)
        for value in resource.getrlimit(kind)
    )
    with contextlib.suppress(OSError, ValueError):  # the system wants it higher than that
        resource.setrlimit(kind, (soft, hard))


def _use_scratch(directory: Path) -> None:
    """Let temporary files and compilers' caches go where they may."""
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = None  # it is found anew
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(directory / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(directory / "triton"))
    os.environ.setdefault("MPLCONFIGDIR", str(directory / "matplotlib"))


def _fence(load: LoadModel) -> landlock.Fence:
    isolation = load.isolation
    remembered = cache_directory()
    with contextlib.suppress(OSError):
        remembered.mkdir(parents=True, exist_ok=True)
    write = [remembered, Path(_SHARED_MEMORY), *map(Path, isolation.write_paths)]
    if isolation.scratch_dir:
        write.append(Path(isolation.scratch_dir))
    devices = [Path(device) for device in _DEVICES]
    for pattern in _GPU_DEVICES:
        devices += Path("/dev").glob(pattern)
    return landlock.Fence(
        read=[
            *map(Path, _SYSTEM),
            *_python(),
            Path(load.model_dir),
            *_linked_files(Path(load.model_dir)),
            library_directory(),
            *map(Path, isolation.read_paths),
            *(map(Path, _NETWORK) if isolation.allow_network else ()),
        ],
        write=write,
        use=devices,
        tcp=isolation.allow_network,
    )


def _linked_files(directory: Path) -> set[Path]:
    """Files of an archive that are kept elsewhere, once for all versions that have them."""
    return {path.resolve() for path in directory.rglob("*") if path.is_symlink()}


def _python() -> set[Path]:
    """The interpreter, what it imports from, and Flambeau itself with its handlers."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, str(Path(__file__).parent)}
    return {Path(place) for place in places if place} | {builtin_dir()}
