"""Linux's Landlock: a process takes rights from itself, and from all it starts, for good.

Only the calling thread is restricted, with what it starts from then on, so it belongs before the
first other thread. What a kernel does not know stays open; `restrict` says what that is. The
numbers are those of <linux/landlock.h>; `man 7 landlock` explains them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, on all architectures
_VERSION_FLAG: Final = 1
_RULE_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38  # <linux/prctl.h>

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE, _MAKE_DEVICES = 1 << 4 | 1 << 5, 1 << 6 | 1 << 11
_MAKE = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12  # directories, files, sockets, pipes, links
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE: Final = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE | _MAKE | _REFER | _TRUNCATE
_USE: Final = _READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL_DEV
_NET: Final = 1 << 0 | 1 << 1  # TCP bind and connect
_SCOPES: Final = 1 << 0 | 1 << 1  # abstract Unix sockets, signals

_ABI_TRUNCATE, _ABI_NET, _ABI_IOCTL, _ABI_SCOPES = 3, 4, 5, 6
NEWEST: Final = 7
"""The newest version of the interface that this was written for; later ones include it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """What a process may still do; paths that do not exist are left out.

    Attributes:
        read: Files and trees that may be read, and programs in them be started.
        write: Trees in which files may be made, changed and removed, too.
        use: Devices to be read, written and controlled.
        tcp: Whether TCP ports may be bound and connected to.
    """

    read: Iterable[Path]
    write: Iterable[Path]
    use: Iterable[Path]
    tcp: bool


def kernel_abi() -> int:
    """The version of Landlock that the kernel has; 0 where it has none, or it is switched off."""
    if sys.platform != "linux":
        return 0
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError:
        return 0


def restrict(fence: Fence, *, abi: int) -> list[str]:
    """Put the calling thread behind a fence.

    Args:
        fence: What stays possible.
        abi: The kernel's version, or an older one.

    Returns:
        What stays open although the fence forbids it, for people.

    Raises:
        OSError: The kernel refuses; nothing has changed then, but `no_new_privs` may be set.
    """
    if abi == 0:
        return ["files", "signals", *([] if fence.tcp else ["TCP"])]
    handled_fs = _handled(abi)
    handled_net = _NET if abi >= _ABI_NET and not fence.tcp else 0
    scoped = _SCOPES if abi >= _ABI_SCOPES else 0
    attributes = struct.pack("=QQQ", handled_fs, handled_net, scoped)
    size = 24 if abi >= _ABI_SCOPES else 16 if abi >= _ABI_NET else 8
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for paths, rights in ((fence.read, _READ), (fence.write, _WRITE), (fence.use, _USE)):
            for path in paths:
                _allow(ruleset, path, rights & handled_fs)
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    missing = ["truncating files"] if abi < _ABI_TRUNCATE else []
    missing += ["TCP"] if abi < _ABI_NET and not fence.tcp else []
    missing += ["signals"] if abi < _ABI_SCOPES else []
    return missing


def _handled(abi: int) -> int:
    handled = _READ | _WRITE | _MAKE_DEVICES | _IOCTL_DEV
    if abi < 2:
        handled &= ~_REFER  # moving files between directories is forbidden there
    if abi < _ABI_TRUNCATE:
        handled &= ~_TRUNCATE
    if abi < _ABI_IOCTL:
        handled &= ~_IOCTL_DEV
    return handled


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is not there, so there is nothing to allow
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        _call(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            rule,
            ctypes.c_uint32(0),
        )
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    """A system call that the C library has no function for.

    Raises:
        OSError: It failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno() or errno.EINVAL
        raise OSError(code, os.strerror(code))
    return result
