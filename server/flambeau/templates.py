"""The front's templates, from which it has its workers forked.

A template is started in the background and again when it ends. A worker that comes while it is on
its way waits for it, as it would wait for its own imports; one for which there is none, or which
needs another interpreter or environment, is a fresh process. Nobody else notices.

Workers that share a model come from a template of their own, forked from the first and with the
model loaded; it lives as long as one of them does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
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
from flambeau.errors import WorkerError
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
_MAX_FAILURES: Final = 3  # in a row, of templates that never became ready
_PAUSE_S: Final = 1.0  # before one that ended is replaced


@dataclass(slots=True)
class _Loaded:
    """A template with a model, and how many workers are forked or to be forked from it."""

    template: asyncio.Future[Template]
    num_users: int = 0

    @property
    def failed(self) -> bool:
        """Whether there is no such template because the model cannot be shared."""
        done = self.template.done() and not self.template.cancelled()
        return done and self.template.exception() is not None


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
        # while they have workers, by the model's directory; those that failed stay
        self._loaded: dict[str, _Loaded] = {}
        self._endings: set[asyncio.Future[None]] = set()

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
        await asyncio.gather(
            *self._endings, *(_end(each.template) for each in self._loaded.values())
        )

    async def start_worker(self, launch: Launch) -> tuple[Child, socket.socket]:
        """A worker, forked if it can be; returns it with the front's end of its socket.

        Raises:
            WorkerDied: The operating system cannot start a process now.
        """
        ours = self._launch
        if (launch.command, launch.environment) != (ours.command, ours.environment):
            return await start_fresh(launch)
        if self._template is not None:
            try:
                template = await asyncio.shield(self._template)
                if launch.shared is not None:
                    with contextlib.suppress(TemplateError):  # it has been logged
                        return await self._fork_loaded(template, launch.shared)
                return await template.fork()
            except WorkerError as error:
                _log.warning("a worker is started without the template: %s", error)
        return await start_fresh(launch)

    async def _fork_loaded(
        self, template: Template, shared: SharedModel
    ) -> tuple[Child, socket.socket]:
        """A worker with the model, from the template that has it.

        Raises:
            TemplateError: The model cannot be shared.
        """
        key = shared.load.model_dir
        if key not in self._loaded:
            self._loaded[key] = _Loaded(asyncio.ensure_future(template.fork_loaded(shared)))
        loaded = self._loaded[key]
        loaded.num_users += 1
        try:
            template = await asyncio.shield(loaded.template)
            child, sock = await template.fork()
        except BaseException as error:
            if isinstance(error, TemplateError) and not loaded.failed:
                self._forget(key, loaded)  # it has ended: the next worker has it loaded again
            self._leave(key, loaded)
            raise
        child.add_done_callback(lambda: self._leave(key, loaded))
        return child, sock

    def _forget(self, key: str, loaded: _Loaded) -> None:
        if self._loaded.get(key) is loaded:
            del self._loaded[key]

    def _leave(self, key: str, loaded: _Loaded) -> None:
        """Once nobody uses a model, its template ends; what cannot be shared is remembered."""
        loaded.num_users -= 1
        if loaded.num_users == 0 and not loaded.failed:
            self._forget(key, loaded)
            self._endings.add(ending := asyncio.ensure_future(_end(loaded.template)))
            ending.add_done_callback(self._endings.discard)

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
        self._output = Output(child, lambda stream, line: _log_line(stream, line, tags or {}))
        self._asking = asyncio.Lock()
        self._forks: set[asyncio.Task[tuple[AdoptedChild, socket.socket]]] = set()
        self._exited = asyncio.ensure_future(self._watch_exit())

    @classmethod
    async def start(cls, launch: Launch, adoption: Adoption) -> Template:
        """Start one and wait until it has imported everything.

        Raises:
            TemplateError: It ended, or is not ready in time.
            WorkerDied: The operating system cannot start a process now.
        """
        child, sock = await start_fresh(launch, flags=[FLAG], kind=socket.SOCK_SEQPACKET)
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

    async def fork_loaded(self, shared: SharedModel) -> Template:
        """Another template, which has loaded a model.

        Raises:
            TemplateError: It cannot, or the model is none to be shared.
        """
        fork = Fork(is_template=True)
        child, sock = await self._fork_shielded(fork, socket.SOCK_SEQPACKET)
        tags = {"model": shared.load.model_name, "version": shared.load.model_version}
        template = Template(child, sock, self._adoption, tags=tags)
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
