"""The front's templates, from which it has its workers forked.

A template is started in the background and again when it ends. A worker that comes while it is on
its way waits for it, as it would wait for its own imports; one for which there is none, or which
needs another interpreter or environment, is a fresh process. Nobody else notices.

Workers that share a model come from a template of their own, forked from the first and with the
model loaded and warm. It lives until it is forgotten, so that a worker that died is replaced at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

from flambeau.child import Adoption, Child, Launch, SharedModel, start_fresh
from flambeau.errors import WorkerError
from flambeau.template_messages import TemplateError
from flambeau.template_process import TemplateProcess

_log = logging.getLogger(__name__)

_MAX_FAILURES: Final = 3  # in a row, of templates that never became ready
_PAUSE_S: Final = 1.0  # before one that ended is replaced


class Templates:
    """Starter of a server's workers, and owner of the template they come from.

    Attributes:
        launch: The workers that can be forked: those with this command and environment.
    """

    def __init__(self, launch: Launch, *, is_on: bool) -> None:
        """Begin with no template.

        Args:
            launch: The workers that can be forked: those with this command and environment.
            is_on: Whether to have a template at all.
        """
        # for the life of the server
        self.launch = launch
        self._is_on = is_on
        self._adoption = Adoption()
        self._task: asyncio.Task[None] | None = None
        # pending while a template is on its way, None when there is none
        self._template: asyncio.Future[TemplateProcess] | None = None
        # until they are forgotten; those that failed, too
        self._loaded: dict[SharedModel, asyncio.Future[TemplateProcess]] = {}
        self._endings: set[asyncio.Future[None]] = set()

    async def __aenter__(self) -> Templates:
        """Start a template, which goes on by itself; returns once its process runs."""
        if self._is_on:
            spawned = asyncio.Event()
            self._template = starting = self._start(on_spawned=spawned.set)
            self._task = asyncio.ensure_future(self._keep_alive(starting))
            await spawned.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the template; its workers are for others to end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await asyncio.gather(*self._endings, *map(_end, self._loaded.values()))

    async def start_worker(self, launch: Launch) -> tuple[Child, socket.socket]:
        """A worker, forked if it can be; returns it with the front's end of its socket.

        Raises:
            WorkerDied: The operating system cannot start a process now.
        """
        ours = self.launch
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

    def forget(self, shared: SharedModel) -> None:
        """End the template with this model, if there is one; its workers are for others to end."""
        loading = self._loaded.pop(shared, None)
        if loading is not None:
            self._endings.add(ending := asyncio.ensure_future(_end(loading)))
            ending.add_done_callback(self._endings.discard)

    async def _fork_loaded(
        self, template: TemplateProcess, shared: SharedModel
    ) -> tuple[Child, socket.socket]:
        """A worker with the model, from the template that has it.

        Raises:
            TemplateError: The model cannot be shared.
        """
        if shared not in self._loaded:
            self._loaded[shared] = asyncio.ensure_future(template.fork_loaded(shared))
        loading = self._loaded[shared]
        try:
            loaded = await asyncio.shield(loading)
            return await loaded.fork()
        except TemplateError:
            if loading.exception() is None and self._loaded.get(shared) is loading:
                self.forget(shared)  # it has ended: the next worker has it loaded again
            raise

    def _start(
        self, *, on_spawned: Callable[[], None] = lambda: None
    ) -> asyncio.Future[TemplateProcess]:
        return asyncio.ensure_future(
            TemplateProcess.start(self.launch, self._adoption, on_spawned=on_spawned)
        )

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
