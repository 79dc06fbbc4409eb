from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import pytest

from flambeau.system_metrics import SystemValue
from flambeau.system_sampler import SystemSampler

VALUE = SystemValue("CPUUtilization", 5.0)


class Machine:
    """What is read, how often, and a clock that stands until it is let go."""

    def __init__(self) -> None:
        self.kept: list[SystemValue] = []
        self.threads: list[str] = []
        self.pauses: asyncio.Queue[float] = asyncio.Queue()
        self.error: Exception | None = None
        self._go_on = asyncio.Semaphore(0)

    def read(self) -> list[SystemValue]:
        self.threads.append(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return [VALUE]

    def keep(self, values: Iterable[SystemValue]) -> None:
        self.kept += values

    async def pause(self, seconds: float) -> None:
        self.pauses.put_nowait(seconds)
        await self._go_on.acquire()

    async def next_reading(self) -> None:
        self._go_on.release()
        await self.pauses.get()


def test_the_machine_is_read_at_the_start_and_after_each_interval() -> None:
    async def run() -> None:
        machine = Machine()
        sampler = SystemSampler(machine.read, machine.keep, interval_s=60, pause=machine.pause)
        await sampler.start()
        assert await machine.pauses.get() == 60
        assert machine.kept == [VALUE]
        await machine.next_reading()
        assert machine.kept == [VALUE, VALUE]
        assert threading.main_thread().name not in machine.threads
        await sampler.stop(timeout_s=1)
        assert len(machine.kept) == 2

    asyncio.run(run())


def test_a_reading_that_fails_is_told_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        machine = Machine()
        machine.error = OSError("no such thing")
        sampler = SystemSampler(machine.read, machine.keep, interval_s=60, pause=machine.pause)
        await sampler.start()
        await machine.pauses.get()
        await machine.next_reading()
        assert caplog.text.count("no such thing") == 1
        machine.error = None
        await machine.next_reading()
        assert machine.kept == [VALUE]
        await sampler.stop(timeout_s=1)

    asyncio.run(run())


def test_a_sampler_that_never_started_can_be_stopped() -> None:
    async def run() -> None:
        machine = Machine()
        await SystemSampler(machine.read, machine.keep, interval_s=60).stop(timeout_s=1)
        assert machine.threads == []

    asyncio.run(run())
