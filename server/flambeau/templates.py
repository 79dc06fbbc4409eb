"""The front's templates, from which it has its workers forked.

A template is started in the background and again when it ends. A worker that comes while it is on
its way waits for it, as it would wait for its own imports; one for which there is none, or which
needs another interpreter or environment, is a fresh process. Nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import IO, Final

from flambeau.child import AdoptedChild, Adoption, Child, Launch, describe_exit, start_fresh
from flambeau.errors import WorkerError
from flambeau.output import Output, Stream
from flambeau.template import FLAG
from flambeau.template_messages import (
    MAX_DATAGRAM_BYTES,
    Fork,
    Forked,
    FromTemplate,
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
_MAX_FAILURES: Final = 3  # in a row, of templates that never became ready
_PAUSE_S: Final = 1.0  # before one that ended is replaced


class Templates:
    """Starter of a server's workers, and owner of the template they come from."""

    def __init__(self, launch: Launch, *, is_on: bool) -> None:
        """Begin with no template.

        Args:
            launch: The workers that can be forked: those with this command and environment.
            is_on: Whether to have a template at all.
        """
        # for the life of the server
        self._launch = launch
        self._is_on = is_on
        self._adoption = Adoption()
        self._task: asyncio.Task[None] | None = None
        # pending while a template is on its way, None when there is none
        self._template: asyncio.Future[Template] | None = None

    async def __aenter__(self) -> Templates:
        """Start a template in the background."""
        if self._is_on:
            self._template = starting = self._start()
            self._task = asyncio.ensure_future(self._keep_alive(starting))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the template; its workers are for others to end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def start_worker(self, launch: Launch) -> tuple[Child, socket.socket]:
        """A worker, forked if it can be; returns it with the front's end of its socket.

        Raises:
            WorkerDied: The operating system cannot start a process now.
        """
        if self._template is not None and launch == self._launch:
            try:
                template = await asyncio.shield(self._template)
                return await template.fork()
            except WorkerError as error:
                _log.warning("a worker is started without the template: %s", error)
        return await start_fresh(launch)

    def _start(self) -> asyncio.Future[Template]:
        return asyncio.ensure_future(Template.start(self._launch, self._adoption))

    async def _keep_alive(self, starting: asyncio.Future[Template]) -> None:
        """Start another template whenever one ends, until cancelled or given up."""
        num_failures = 0
        while True:
            try:
                template = await starting
                num_failures = 0
                how = await template.wait_exited()
                _log.warning("the template has ended: %s; another is started", how)
            except WorkerError as error:
                num_failures += 1
                _log.warning("workers are started without a template: %s", error)
            finally:
                self._template = None
                await _end(starting)
            if num_failures == _MAX_FAILURES:
                return
            await asyncio.sleep(_PAUSE_S)
            self._template = starting = self._start()


async def _end(starting: asyncio.Future[Template]) -> None:
    """End a template, however far it is."""
    starting.cancel()
    await asyncio.wait({starting})
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().kill()


class Template:
    """One template process that is ready; make one with `start`."""

    def __init__(self, child: Child, sock: socket.socket, adoption: Adoption) -> None:
        # for the life of the process
        self._child = child
        self._sock = sock
        self._adoption = adoption
        self._output = Output(child, _on_output)
        self._asking = asyncio.Lock()
        self._forks: set[asyncio.Task[tuple[Child, socket.socket]]] = set()
        self._exited = asyncio.ensure_future(self._watch_exit())

    @classmethod
    async def start(cls, launch: Launch, adoption: Adoption) -> Template:
        """Start one and wait until it has imported everything.

        Raises:
            TemplateError: It ended, or is not ready in time.
            WorkerDied: The operating system cannot start a process now.
        """
        child, sock = await start_fresh(launch, flags=[FLAG], kind=socket.SOCK_SEQPACKET)
        sock.setblocking(False)  # noqa: FBT003  # socket's own signature
        template = cls(child, sock, adoption)
        try:
            await template._wait_ready()
        except BaseException:
            await template.kill()
            raise
        return template

    async def fork(self) -> tuple[Child, socket.socket]:
        """A worker of its own, that is the front's child.

        Raises:
            TemplateError: It cannot; if it gave no proper answer, it is ended.
        """
        fork = asyncio.ensure_future(self._fork())
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
                os.kill(self._child.pid, signal.SIGKILL)

    async def _wait_ready(self) -> None:
        async with self._asking:
            if not isinstance(await self._receive(_READY_S), TemplateReady):
                raise TemplateError("it broke the protocol")

    async def _fork(self) -> tuple[Child, socket.socket]:
        async with self._asking:
            with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
                sock, their_sock = socket.socketpair()
                ours.enter_context(sock)  # if this fails, a worker that runs takes it as its end
                theirs.enter_context(their_sock)
                stdout = _pipe(ours, theirs)
                stderr = _pipe(ours, theirs)
                files = [their_sock.fileno(), stdout[1].fileno(), stderr[1].fileno()]
                try:
                    with self._adoption:
                        socket.send_fds(self._sock, [encode(Fork())], files)
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


def _hang_up(fork: asyncio.Future[tuple[Child, socket.socket]]) -> None:
    """Nobody waits for this worker any more: without a front it ends."""
    if not fork.cancelled() and fork.exception() is None:
        fork.result()[1].close()


def _on_output(stream: Stream, line: str) -> None:
    level = logging.WARNING if stream == "stderr" else logging.INFO
    _output_log.log(level, line, extra={"stream": stream})
