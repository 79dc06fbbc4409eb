"""A template: a process that has imported torch and forks workers when the front says so.

It has a single thread and never uses a GPU, for neither survives a fork; before each fork it makes
sure of both. A worker is forked twice over, so that its parent is gone at once and the front adopts
it: its end is the front's to hear, and a template's end is nothing to a worker.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flambeau.template_messages import (
    MAX_DATAGRAM_BYTES,
    Forked,
    Refused,
    TemplateReady,
    decode_to_template,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FLAG: Final = "--template"  # on the command line of a worker module: be a template instead
_THREADS: Final = Path("/proc/self/task")
_STAT: Final = Path("/proc/self/stat")
_COMMAND_LINE: Final = Path("/proc/self/cmdline")
_ARG_START: Final = 45  # its place in /proc/PID/stat behind the name; man 5 proc
_ADOPTION_S: Final = 0.0005  # between two looks for the new parent


def serve(
    sock: socket.socket, *, prepare: Callable[[], None], run_worker: Callable[[socket.socket], int]
) -> int:
    """Fork workers until the front hangs up.

    Args:
        sock: The template's end of its socket.
        prepare: Imports what workers need.
        run_worker: What a worker does with its own socket.

    Returns:
        The exit status, of the template and of each worker: both return from here.
    """
    front = os.getppid()
    prepare()
    _stay_single()
    sock.send(encode(TemplateReady()))
    while True:
        datagram, files, _, _ = socket.recv_fds(sock, MAX_DATAGRAM_BYTES, 3)
        if not datagram:
            return 0
        decode_to_template(datagram)
        answer = _fork(front, sock, files)
        if answer is None:
            return run_worker(socket.socket(fileno=files[0]))
        for descriptor in files:
            os.close(descriptor)
        sock.send(encode(answer))


def why_not_fork() -> str:
    """What of this process would not survive a fork; empty when all would."""
    import torch  # noqa: PLC0415  # takes seconds; a template has it already

    num_threads = len(list(_THREADS.iterdir()))
    if num_threads > 1:
        return f"it has {num_threads} threads"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return "it uses a GPU"
    return ""


def _stay_single() -> None:
    """Have one thread, and keep what is loaded out of the garbage collector's way."""
    import torch  # noqa: PLC0415  # as above

    torch.set_num_threads(1)
    # NumPy's OpenBLAS starts its threads when it is loaded, and ends them before any fork; it
    # starts them again, on both sides, when it has work for them
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    gc.collect()
    gc.freeze()  # else the next collection in a worker would write to every page with an object


def _fork(front: int, sock: socket.socket, files: list[int]) -> Forked | Refused | None:
    """Fork a worker; None in the worker itself."""
    if len(files) != 3:
        return Refused(f"it was sent {len(files)} open files instead of 3")
    if reason := why_not_fork():
        return Refused(reason)
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        return Refused(f"it cannot fork: {error}")
    if between == 0:
        # from here on, nothing returns into the template's loop but the worker
        between = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            os.write(writing, pid.to_bytes(8, sys.byteorder))
            os._exit(0)
        os.close(reading)
        os.close(writing)
        _leave(sock, files)
        _wait_adopted(between, front)
        return None
    os.close(writing)
    os.waitpid(between, 0)  # from now on the worker's parent is the front
    pid_bytes = os.read(reading, 8)
    os.close(reading)
    return Forked(int.from_bytes(pid_bytes, sys.byteorder)) if pid_bytes else Refused("no memory")


def _leave(sock: socket.socket, files: list[int]) -> None:
    """Be a process of its own, with nothing in common with the template but memory."""
    sock.close()
    os.setsid()
    for descriptor, number in zip(files[1:], (1, 2), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _take_off_flag()
    if "numpy" in sys.modules:
        import numpy as np  # noqa: PLC0415  # imported already

        # else all workers would draw the same; Python begins `random` anew by itself, and torch's
        # stream starts from one seed in every process, forked or not
        np.random.seed()  # the stream of the module's functions is meant


def _wait_adopted(between: int, front: int) -> None:
    """Wait until the process between has gone; end if the front has, too."""
    while (parent := os.getppid()) == between:
        time.sleep(_ADOPTION_S)
    if parent != front:
        os._exit(0)


def _take_off_flag() -> None:
    """Take the template's flag off the command line, for `ps` and for handlers."""
    sys.argv = [word for word in sys.argv if word != FLAG]
    words = _COMMAND_LINE.read_bytes()
    start = int(_STAT.read_bytes().rpartition(b")")[2].split()[_ARG_START])
    place = words.rfind(FLAG.encode())
    if place >= 0 and start > 0:
        ctypes.memset(start + place, 0, len(FLAG))
