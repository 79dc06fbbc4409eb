"""A template: a process that has imported torch and forks workers when the front says so.

Another template may be forked from it, which loads a model before it forks workers of that model:
they share the memory of its weights for as long as they do not write to it.

It has a single thread and never uses a GPU, for neither survives a fork; before each fork it makes
sure of both. A model is warmed up in it with one thread, which starts no others.

A worker is forked twice over, so that its parent is gone at once and the front adopts it: its end
is the front's to hear, and a template's end is nothing to a worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from flambeau.template_messages import (
    MAX_DATAGRAM_BYTES,
    Forked,
    Preload,
    Preloaded,
    Refused,
    TemplateReady,
    decode_to_template,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flambeau.instance import ModelInstance
    from flambeau.messages import LoadModel
    from flambeau.template_messages import FromTemplate

FLAG: Final = "--template"  # on the command line of a worker module: be a template instead
_NUM_FILES: Final = 3  # a new process's socket, stdout and stderr
_THREADS: Final = Path("/proc/self/task")
_CHILDREN: Final = Path("/proc/thread-self/children")  # of the only thread
_FILES: Final = Path("/proc/self/fd")
_STAT: Final = Path("/proc/self/stat")
_COMMAND_LINE: Final = Path("/proc/self/cmdline")
_ARG_START: Final = 45  # its place in /proc/PID/stat behind the name; man 5 proc
_LOOK_S: Final = 0.0005  # between two looks for what is about to happen
_NICENESS: Final = 10  # of loading a model: with all CPUs taken by those who answer, a tenth of one


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """What a template and those it forks do; `worker.py` says how.

    Attributes:
        prepare: Import what workers need.
        begin: Tie a new process to the front.
        confine: Give up what a worker of this model may not do, for good.
        load: Load a model.
        is_builtin: Whether a model's handler is one of Flambeau's own.
        work: Be a worker until the front hangs up, with the model that is loaded already, if any.
    """

    prepare: Callable[[], None]
    begin: Callable[[socket.socket], None]
    confine: Callable[[LoadModel], str]
    load: Callable[[LoadModel], ModelInstance]
    is_builtin: Callable[[LoadModel], bool]
    work: Callable[[socket.socket, ModelInstance | None], int]


def serve(sock: socket.socket, roles: Roles) -> int:
    """Fork workers until the front hangs up.

    Args:
        sock: The template's end of its socket.
        roles: What it and they do.

    Returns:
        The exit status, of the template and of all who are forked from it: they return from here.
    """
    front = os.getppid()
    instance: ModelInstance | None = None
    roles.prepare()
    _freeze()
    _stay_single()
    sock.send(encode(TemplateReady()))
    while True:
        datagram, files, _, _ = socket.recv_fds(sock, MAX_DATAGRAM_BYTES, _NUM_FILES)
        if not datagram:
            return 0
        message = decode_to_template(datagram)
        answer: FromTemplate | None
        if isinstance(message, Preload):
            instance, answer = _preload(message, roles)
        else:
            answer = _fork(front, sock, files)
            if answer is None:  # this is the new process
                sock = socket.socket(fileno=files.pop(0))
                if not message.is_template:
                    _take_off_flag()
                    return roles.work(sock, instance)
                roles.begin(sock)
                answer = TemplateReady()
        for descriptor in files:
            os.close(descriptor)
        sock.send(encode(answer))


def _preload(message: Preload, roles: Roles) -> tuple[ModelInstance | None, Preloaded | Refused]:
    """Load a model, unless what its loading leaves behind would not survive a fork."""
    is_builtin = roles.is_builtin(message.load)
    if message.only_builtin and not is_builtin:
        return None, Refused("its handler is its own")
    roles.confine(message.load)  # before the model's code, and before the thread that loads it
    before = _open_files()

    def load() -> ModelInstance:
        instance = roles.load(msgspec.structs.replace(message.load, num_threads=1))
        if is_builtin:
            instance.prepare()
        _freeze()
        return instance

    try:
        # a handler of its own may depend on the thread it is loaded in
        instance = _behind_others(load) if is_builtin else load()
    except BaseException as error:  # noqa: BLE001  # the worker that tries it next says it better
        return None, Refused(f"loading it raised {type(error).__name__}")
    _stay_single()
    if reason := why_not_fork():
        return None, Refused(reason)
    if opened := _open_files() - before:
        return None, Refused(f"it keeps {', '.join(sorted(opened))} open")
    return instance, Preloaded()


def _behind_others(load: Callable[[], ModelInstance]) -> ModelInstance:
    """Load in a thread of lower priority: a process could not raise its own again."""
    thread_ids: list[int] = []

    def load_in_thread() -> ModelInstance:
        thread_ids.append(threading.get_native_id())
        os.setpriority(os.PRIO_PROCESS, thread_ids[0], _NICENESS)
        return load()

    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(load_in_thread).result()
    finally:
        while any((_THREADS / str(thread_id)).exists() for thread_id in thread_ids):
            time.sleep(_LOOK_S)  # Python tells of its end before the system does


def _open_files() -> set[str]:
    found: set[str] = set()
    for each in _FILES.iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself is closed by now
            found.add(f"{each.name} ({each.readlink()})")
    return found


def why_not_fork() -> str:
    """What of this process would not survive a fork; empty when all would."""
    import torch  # noqa: PLC0415  # takes seconds; a template has it already

    num_threads = len(list(_THREADS.iterdir()))
    if num_threads > 1:
        return f"it has {num_threads} threads"
    if children := _CHILDREN.read_text(encoding="ascii").split() if _CHILDREN.is_file() else ():
        return f"it has started {len(children)} processes"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return "it uses a GPU"
    return ""


def _freeze() -> None:
    """Keep what is loaded out of the garbage collector's way.

    Else the next collection in a worker would write to every page with an object.
    """
    gc.collect()
    gc.freeze()


def _stay_single() -> None:
    """Have one thread, again or for good."""
    import torch  # noqa: PLC0415  # as above

    torch.set_num_threads(1)
    # NumPy's OpenBLAS starts its threads when it is loaded, and ends them before any fork; it
    # starts them again, on both sides, when it has work for them
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _fork(front: int, sock: socket.socket, files: list[int]) -> Forked | Refused | None:
    """Fork a worker; None in the worker itself."""
    if len(files) != _NUM_FILES:
        return Refused(f"it was sent {len(files)} open files instead of {_NUM_FILES}")
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
    for number in (1, 2):
        descriptor = files.pop(1)
        os.dup2(descriptor, number)
        os.close(descriptor)
    _draw_anew()


def _draw_anew() -> None:
    """Begin the streams of random numbers anew; Python does so with `random` by itself."""
    import numpy as np  # noqa: PLC0415  # as above
    import torch  # noqa: PLC0415  # as above

    np.random.seed()  # the stream of the module's functions is meant
    torch.default_generator.seed()


def _wait_adopted(between: int, front: int) -> None:
    """Wait until the process between has gone; end if the front has, too."""
    while (parent := os.getppid()) == between:
        time.sleep(_LOOK_S)
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
