"""The worker process: `python -m flambeau.worker --fd N`, or forked from a template.

Synchronous from end to end: receive a message on the inherited socket, answer it, until the front
closes the socket. It imports torch, and with it the model's code, only once its death is tied to
the front's; what the model does is `instance.py`'s business.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import io
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Final

from flambeau import template, wire
from flambeau.arena import SharedBodies, received_files
from flambeau.confinement import confine
from flambeau.errors import FlambeauError, OutOfResources
from flambeau.failure_text import print_traceback, sendable, text_of
from flambeau.heap import give_freed_memory_back
from flambeau.messages import (
    FailureKind,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    LoadStage,
    RunBatch,
    ShareMemory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flambeau.instance import ModelInstance
    from flambeau.loading import LoadEntryPoint
    from flambeau.messages import ToFront, ToWorker

_PREPARED: Final = ("flambeau.batch_loops", "flambeau.image_handler", "flambeau.instance")
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_FILE_BYTES: Final = socket.CMSG_SPACE(struct.calcsize("i"))  # that one open file takes
_TIME_UNTIL_IDLE: Final = struct.pack("@ll", 2, 0)  # struct timeval: seconds and microseconds


def main(
    arguments: Sequence[str] | None = None,
    *,
    load_entry_point: LoadEntryPoint | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Run a worker until the front hangs up, or a template.

    Args:
        arguments: The command line, without the program's name.
        load_entry_point: How to get from an archive to a function; `loading.load_handler` if None.
        prepare: Imports what `load_entry_point` needs, for a template.

    Returns:
        The exit status: 0, or 1 when the model could not be loaded.
    """
    parser = argparse.ArgumentParser(prog="flambeau.worker")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket")
    parser.add_argument(template.FLAG, action="store_true", help="fork workers, do not be one")
    options = parser.parse_args(arguments)
    with socket.socket(fileno=options.fd) as sock:
        if not options.template:
            return _run(sock, load_entry_point)
        _tie_to_front(sock)
        return template.serve(sock, _roles(load_entry_point, prepare))


def _roles(load_entry_point: LoadEntryPoint | None, prepare: Callable[[], None]) -> template.Roles:
    """What a template and its workers do."""

    def prepare_all() -> None:
        for module in _PREPARED:
            importlib.import_module(module)
        prepare()

    def is_builtin(load: LoadModel) -> bool:
        from flambeau.loading import is_builtin  # noqa: PLC0415  # as above

        return is_builtin(load)

    return template.Roles(
        prepare=prepare_all,
        begin=_become_worker,
        confine=confine,
        load=lambda load: _load(load, load_entry_point),
        is_builtin=is_builtin,
        work=lambda sock, instance: _run(sock, load_entry_point, loaded=instance),
    )


def _run(
    sock: socket.socket,
    load_entry_point: LoadEntryPoint | None,
    *,
    loaded: ModelInstance | None = None,
) -> int:
    with sock:
        _become_worker(sock)
        channel = Channel(sock)
        load = channel.receive()
        if load is None:
            return 0
        assert isinstance(load, LoadModel)
        isolation = confine(load)
        instance = _start(load, channel, load_entry_point, loaded=loaded, isolation=isolation)
        if instance is None:
            return 1
        from flambeau.batch_loops import serve_batches  # noqa: PLC0415  # imports torch: not before

        serve_batches(channel, instance, mode=load.batch_mode)
    return 0


class Channel:
    """Messages over the worker's end of the socket; a front that is gone reads as its end.

    One thread may receive while any send: handlers stream from threads of their own.
    """

    def __init__(self, sock: socket.socket) -> None:
        # for the life of the process
        self._sock = sock
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME_UNTIL_IDLE)
        self._sending = threading.Lock()
        self._reader = wire.FrameReader(max_frame_bytes=wire.MAX_FRAME_BYTES)
        # from the first bytes on, with which an open file may come
        self._has_begun = False
        self._files: list[int] = []
        self._shared: SharedBodies | None = None
        # until they are asked for
        self._payloads: deque[memoryview] = deque()

    def receive(self) -> ToWorker | None:
        """The next message, however long it takes; None when the front has hung up.

        When none comes for a while, the memory that batches have freed goes back to the system.
        """
        while True:
            payload = self._next_payload()
            if payload is None:
                return None
            match message := wire.decode_to_worker(payload):
                case ShareMemory(num_bytes=num_bytes):
                    self._shared = SharedBodies(self._files.pop(), num_bytes=num_bytes)
                case RunBatch(shared=[_, *_]):
                    assert self._shared is not None
                    return self._shared.filled(message)
                case _:
                    return message

    def _next_payload(self) -> memoryview | None:
        while not self._payloads:
            try:
                num_bytes = self._receive_some()
            except BlockingIOError:
                give_freed_memory_back()
                select.select([self._sock], [], [])
                continue
            except ConnectionError:
                return None
            if num_bytes == 0:
                return None
            self._payloads.extend(self._reader.received(num_bytes))
        return self._payloads.popleft()

    def _receive_some(self) -> int:
        if self._has_begun:
            return self._sock.recv_into(self._reader.get_buffer())
        num_bytes, ancillary, _, _ = self._sock.recvmsg_into(
            [self._reader.get_buffer()], _FILE_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        self._has_begun = True
        self._files = received_files(ancillary)
        return num_bytes

    def send(self, message: ToFront) -> None:
        """Send a message; without a front to read it, it is dropped, and `receive` tells."""
        with self._sending, contextlib.suppress(ConnectionError):
            self._sock.sendall(wire.encode(message))

    def has_more(self) -> bool:
        """Whether `receive` would return soon: a message is on its way, or the end."""
        return bool(self._payloads) or bool(select.select([self._sock], [], [], 0)[0])


def _become_worker(sock: socket.socket) -> None:
    """Tie this process to the front, and let what it prints come out line by line."""
    _tie_to_front(sock)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )


def _tie_to_front(sock: socket.socket) -> None:
    """Die with the front, and leave signals from the terminal to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(sock, 0)  # POLLHUP is always reported
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        os._exit(0)  # the front died before the line above, so no signal will come
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock.set_inheritable(False)  # else a process the handler starts keeps the socket open


def _load(load: LoadModel, load_entry_point: LoadEntryPoint | None) -> ModelInstance:
    from flambeau.instance import ModelInstance  # noqa: PLC0415  # imports torch: not before
    from flambeau.loading import load_handler  # noqa: PLC0415  # as above

    os.chdir(load.model_dir)
    return ModelInstance.load(load, load_entry_point=load_entry_point or load_handler)


def _start(
    load: LoadModel,
    channel: Channel,
    load_entry_point: LoadEntryPoint | None,
    *,
    loaded: ModelInstance | None,
    isolation: str,
) -> ModelInstance | None:
    """Load, warm up and check the model, telling the front each stage; None if one fails."""
    stage = LoadStage.STARTING
    began_at = time.perf_counter()
    try:
        stage = _enter_stage(channel, LoadStage.LOADING)
        instance = loaded.in_worker(load) if loaded else _load(load, load_entry_point)
        loaded_at = time.perf_counter()
        stage = _enter_stage(channel, LoadStage.WARMING_UP)
        instance.warm_up()
        stage = _enter_stage(channel, LoadStage.CHECKING)
        check = instance.check()
    except BaseException as error:  # noqa: BLE001  # the model's code may raise SystemExit, too
        print_traceback()
        channel.send(_load_failed(stage, error, model_dir=load.model_dir))
        return None
    ready_at = time.perf_counter()
    channel.send(
        Loaded(
            load_s=loaded_at - began_at,
            warm_up_s=ready_at - loaded_at,
            check=check,
            optimization=instance.optimization,
            metrics=instance.take_metrics(),
            isolation=isolation,
        )
    )
    return instance


def _enter_stage(channel: Channel, stage: LoadStage) -> LoadStage:
    channel.send(LoadProgress(stage))
    return stage


def _load_failed(stage: LoadStage, error: BaseException, *, model_dir: str) -> LoadFailed:
    """The original error's type and text, and where in the archive it arose."""
    memory = isinstance(error, (MemoryError, OutOfResources))
    message = text_of(error)
    if not isinstance(error, FlambeauError):
        message = sendable("".join(traceback.format_exception_only(error)).strip())
    places = [
        f"{os.path.relpath(frame.filename, model_dir)}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(f"{model_dir}{os.sep}")
    ]
    return LoadFailed(
        stage=stage,
        kind=FailureKind.OUT_OF_RESOURCES if memory else FailureKind.HANDLER_FAILED,
        message=f"{message} ({places[-1]})" if places else message,
    )


if __name__ == "__main__":
    sys.exit(main())
