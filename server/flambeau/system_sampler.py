"""Samples the machine's state every so often, for as long as the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from flambeau.services import ServerParts, Service
from flambeau.system_metrics import SystemMetrics, SystemValue

_log = logging.getLogger(__name__)

Read: TypeAlias = Callable[[], Iterable[SystemValue]]
Keep: TypeAlias = Callable[[Iterable[SystemValue]], None]
Pause: TypeAlias = Callable[[float], Awaitable[None]]


class SystemSampler(Service):
    """Owner of the task that reads."""

    def __init__(
        self, read: Read, keep: Keep, *, interval_s: float, pause: Pause = asyncio.sleep
    ) -> None:
        """Read nothing yet.

        Args:
            read: Gives the values; called in a thread, because it may block.
            keep: Gets them, on the event loop.
            interval_s: From the end of one reading to the beginning of the next.
            pause: Waits so many seconds.
        """
        self._read = read
        self._keep = keep
        self._interval_s = interval_s
        self._pause = pause
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin with a first reading."""
        self._task = asyncio.ensure_future(self._sample())

    async def stop(self, *, timeout_s: float) -> None:  # noqa: ARG002  # it takes no time
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _sample(self) -> None:
        has_failed = False
        while True:
            try:
                self._keep(await asyncio.to_thread(self._read))
            except (OSError, ValueError, LookupError) as error:
                if not has_failed:
                    _log.warning("the machine's state cannot be read: %s", error)
                has_failed = True
            await self._pause(self._interval_s)


def make_system_sampler(parts: ServerParts) -> SystemSampler | None:
    """The sampler of a server; None when `system_metrics` is off."""
    if not parts.config.system_metrics:
        return None
    return SystemSampler(
        SystemMetrics().read,
        parts.metrics.system_sampled,
        interval_s=parts.config.metric_time_interval_s,
    )
