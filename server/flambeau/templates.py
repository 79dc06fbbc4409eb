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
import socket
from dataclasses import dataclass
from typing import Final

from flambeau.child import Adoption, Child, Launch, SharedModel, start_fresh
from flambeau.errors import WorkerError
from flambeau.template_messages import TemplateError
from flambeau.template_process import TemplateProcess

_log = logging.getLogger(__name__)

_MAX_FAILURES: Final = 3  # in a row, of templates that never became ready
_PAUSE_S: Final = 1.0  # before one that ended is replaced


@dataclass(slots=True)
class _Loaded:
    """A template with a model, and how many workers are forked or to be forked from it."""

    template: asyncio.Future[TemplateProcess]
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
        self._template: asyncio.Future[TemplateProcess] | None = None
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
        self, template: TemplateProcess, shared: SharedModel
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

    def _start(self) -> asyncio.Future[TemplateProcess]:
        return asyncio.ensure_future(TemplateProcess.start(self._launch, self._adoption))

    async def _keep_alive(self, starting: asyncio.Future[TemplateProcess]) -> None:
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


async def _end(starting: asyncio.Future[TemplateProcess]) -> None:
    """End a template, however far it is."""
    starting.cancel()
    await asyncio.wait({starting})
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().kill()
