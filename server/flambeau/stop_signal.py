"""SIGTERM and SIGINT as something to wait for."""

from __future__ import annotations

import asyncio
import signal


class StopSignal:
    """Turns SIGTERM and SIGINT into something to wait for; the second one ends all waiting."""

    def __init__(self) -> None:
        self.name = ""
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    def __enter__(self) -> StopSignal:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    async def wait(self) -> None:
        await self._first.wait()

    async def wait_again(self) -> None:
        await self._second.wait()

    def _received(self, number: signal.Signals) -> None:
        self.name = self.name or number.name
        (self._second if self._first.is_set() else self._first).set()
