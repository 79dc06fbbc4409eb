"""One template process, seen from the front: start it, have it fork, end it.

It is asked one thing at a time, and each answer has a deadline; a template that misses one, or says
something else, is ended. Workers live on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import IO, Final

from flambeau.child import (
    AdoptedChild,
    Adoption,
    Child,
    Launch,
    SharedModel,
    describe_exit,
    start_fresh,
)
from flambeau.output import Output, Stream
from flambeau.template import FLAG
from flambeau.template_messages import (
    MAX_DATAGRAM_BYTES,
    Fork,
    Forked,
    FromTemplate,
    Preload,
    Preloaded,
    Refused,
    TemplateError,
    TemplateReady,
    decode_from_template,
    encode,
)

_log = logging.getLogger(__name__)
_output_log = logging.getLogger("flambeau.template")

_READY_S: Final = 60.0  # for the imports of a template, on a slow disk
_FORK_S: Final = 20.0  # a fork takes hundredths of a second, but the machine may be out of breath


class TemplateProcess:
    """A running template; make one with `start`."""

    def __init__(
        self,
        child: Child,
        sock: socket.socket,
        adoption: Adoption,
        *,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        sock.setblocking(False)  # noqa: FBT003  # socket's own signature
        # for the life of the process
        self._child = child
        self._sock = sock
        self._adoption = adoption
        self._output = Output(
            child,
            lambda stream, line: _log_line(stream, line, tags or {}),
            on_dropped=lambda lines, _: _output_log.warning(
                "%d lines of output were left out", lines, extra=dict(tags or {})
            ),
        )
        self._asking = asyncio.Lock()
        self._forks: set[asyncio.Task[tuple[AdoptedChild, socket.socket]]] = set()
        self._exited = asyncio.ensure_future(self._watch_exit())

    @classmethod
    async def start(
        cls, launch: Launch, adoption: Adoption, *, on_spawned: Callable[[], None]
    ) -> TemplateProcess:
        """Start one and wait until it has imported everything.

        Args:
            launch: The interpreter, module and environment, of its workers, too.
            adoption: What makes its workers ours.
            on_spawned: Called when there is a process, or none can be started.

        Raises:
            TemplateError: It ended, or is not ready in time.
            WorkerDied: The operating system cannot start a process now.
        """
        try:
            child, sock = await start_fresh(launch, flags=[FLAG], kind=socket.SOCK_SEQPACKET)
        finally:
            on_spawned()
        template = cls(child, sock, adoption)
        try:
            await template._wait_ready()
        except BaseException:
            await template.kill()
            raise
        return template

    async def fork(self) -> tuple[AdoptedChild, socket.socket]:
        """A worker, and the front's end of its socket.

        Raises:
            TemplateError: It cannot; if it gave no proper answer, it is ended.
        """
        return await self._fork_shielded(Fork(is_template=False), socket.SOCK_STREAM)

    async def fork_loaded(self, shared: SharedModel) -> TemplateProcess:
        """Another template, which has loaded a model.

        Raises:
            TemplateError: It cannot, or the model is none to be shared.
        """
        fork = Fork(is_template=True)
        child, sock = await self._fork_shielded(fork, socket.SOCK_SEQPACKET)
        tags = {"model": shared.load.model_name, "version": shared.load.model_version}
        template = TemplateProcess(child, sock, self._adoption, tags=tags)
        try:
            await template._wait_ready()
            await template._preload(shared)
        except BaseException as error:
            await template.kill()
            if isinstance(error, TemplateError):
                _log.info("each worker loads its model: %s", error, extra=tags)
            raise
        _log.info("workers share their model", extra=tags)
        return template

    async def _fork_shielded(
        self, message: Fork, kind: socket.SocketKind
    ) -> tuple[AdoptedChild, socket.socket]:
        """Fork to the end even if nobody waits for it any more, so that answers stay in step."""
        fork = asyncio.ensure_future(self._fork(message, kind))
        self._forks.add(fork)
        fork.add_done_callback(self._forks.discard)
        try:
            return await asyncio.shield(fork)
        except asyncio.CancelledError:
            fork.add_done_callback(_hang_up)
            raise

    async def wait_exited(self) -> str:
        """Wait for the end of the process; returns how it ended, for people."""
        return await asyncio.shield(self._exited)

    async def kill(self) -> None:
        """End it at once; its workers live on."""
        self._end()
        await self.wait_exited()

    def _end(self) -> None:
        if not self._exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)  # what a model started, too

    async def _wait_ready(self) -> None:
        async with self._asking:
            if not isinstance(await self._receive(_READY_S), TemplateReady):
                raise TemplateError("it broke the protocol")

    async def _preload(self, shared: SharedModel) -> None:
        message = Preload(load=shared.load, only_builtin=shared.only_builtin)
        async with self._asking:
            try:
                self._sock.send(encode(message))
            except OSError as error:
                raise TemplateError(f"it cannot be asked: {error}") from error
            answer = await self._receive(shared.timeout_s)
        if isinstance(answer, Refused):
            raise TemplateError(answer.reason)
        if not isinstance(answer, Preloaded):
            raise TemplateError("it broke the protocol")

    async def _fork(
        self, message: Fork, kind: socket.SocketKind
    ) -> tuple[AdoptedChild, socket.socket]:
        async with self._asking:
            with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
                sock, their_sock = socket.socketpair(socket.AF_UNIX, kind)
                ours.enter_context(sock)  # if this fails, a worker that runs takes it as its end
                theirs.enter_context(their_sock)
                stdout = _pipe(ours, theirs)
                stderr = _pipe(ours, theirs)
                files = [their_sock.fileno(), stdout[1].fileno(), stderr[1].fileno()]
                try:
                    with self._adoption:
                        socket.send_fds(self._sock, [encode(message)], files)
                        answer = await self._receive(_FORK_S)
                    if not isinstance(answer, Refused):
                        pid = answer.pid if isinstance(answer, Forked) else 0
                        child = await AdoptedChild.adopt(pid, stdout=stdout[0], stderr=stderr[0])
                        ours.pop_all()
                        return child, sock
                except (OSError, TemplateError) as error:
                    self._end()
                    raise TemplateError(f"it gave no proper answer: {error}") from error
                raise TemplateError(answer.reason)

    async def _receive(self, timeout_s: float) -> FromTemplate:
        loop = asyncio.get_running_loop()
        receiving = loop.sock_recv(self._sock, MAX_DATAGRAM_BYTES)
        try:
            datagram = await asyncio.wait_for(receiving, timeout_s)
        except asyncio.TimeoutError:
            raise TemplateError(f"it gave no answer within {timeout_s:g} s") from None
        if not datagram:
            raise TemplateError("it has ended")
        return decode_from_template(datagram)

    async def _watch_exit(self) -> str:
        code = await self._child.wait()
        await self._output.finish()
        async with self._asking:  # the socket's end wakes who is waiting for an answer
            self._sock.close()
        return describe_exit(code)


def _pipe(
    reading: contextlib.ExitStack, writing: contextlib.ExitStack
) -> tuple[IO[bytes], IO[bytes]]:
    read_end, write_end = os.pipe()
    return (
        reading.enter_context(os.fdopen(read_end, "rb", buffering=0)),
        writing.enter_context(os.fdopen(write_end, "wb", buffering=0)),
    )


def _hang_up(fork: asyncio.Future[tuple[AdoptedChild, socket.socket]]) -> None:
    """Nobody waits for this worker any more: without a front it ends."""
    if not fork.cancelled() and fork.exception() is None:
        fork.result()[1].close()


def _log_line(stream: Stream, line: str, tags: Mapping[str, object]) -> None:
    level = logging.WARNING if stream == "stderr" and not tags else logging.INFO
    _output_log.log(level, line, extra={**tags, "stream": stream})
