from __future__ import annotations

import asyncio
import math

import pytest

from flambeau.watch import MIN_BYTES_PER_S, Patience, Stage, Watch

PATIENCE = Patience(header_s=10.0, body_s=60.0, idle_s=75.0, write_s=30.0)


@pytest.mark.parametrize(
    ("stage", "due_at"),
    [
        (Stage.REQUEST, 110.0),
        (Stage.HEAD, 110.0),
        (Stage.BODY, 160.0),
        (Stage.NEXT, 175.0),
        (Stage.NOTHING, math.inf),
    ],
)
def test_each_wait_has_its_own_end(stage: Stage, due_at: float) -> None:
    assert PATIENCE.due_at(stage, since=100.0, num_bytes=0) == due_at


def test_a_body_gets_the_time_that_its_bytes_take() -> None:
    due_at = PATIENCE.due_at(Stage.BODY, since=0.0, num_bytes=100 * MIN_BYTES_PER_S)
    assert due_at == 160.0


class Transport(asyncio.Transport):
    """One whose client reads as the test says."""

    def __init__(self, *, unsent: int, closing: bool = False) -> None:
        super().__init__()
        self.unsent = unsent
        self.closing = closing
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted.set()


def test_a_client_that_reads_nothing_is_dropped_and_one_that_reads_is_not() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        patience = Patience(header_s=60.0, body_s=60.0, idle_s=60.0, write_s=0.05)
        stuck, reading = Transport(unsent=10_000_000), Transport(unsent=10_000_000)
        watches = [Watch(loop, patience, each, on_late=lambda _: None) for each in (stuck, reading)]
        for each in watches:
            each.unread()
        reading.unsent = 5_000_000
        await asyncio.wait_for(stuck.aborted.wait(), 10)
        assert not reading.aborted.is_set()
        await asyncio.wait_for(reading.aborted.wait(), 10)  # it has stopped, too
        for each in watches:
            each.stop()

    asyncio.run(run())


def test_a_closed_connection_with_everything_sent_does_not_stay() -> None:
    async def run() -> None:
        transport = Transport(unsent=0, closing=True)
        watch = Watch(asyncio.get_running_loop(), PATIENCE, transport, on_late=lambda _: None)
        watch.ending()
        await asyncio.wait_for(transport.aborted.wait(), 10)
        watch.stop()

    asyncio.run(run())


def test_nothing_is_late_while_a_request_is_answered() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        late: list[Stage] = []
        patience = Patience(header_s=0.01, body_s=0.01, idle_s=0.01, write_s=0.01)
        idle = asyncio.Event()
        busy = Watch(loop, patience, Transport(unsent=0), on_late=late.append)
        other = Watch(loop, patience, Transport(unsent=0), on_late=lambda _: idle.set())
        busy.stage = Stage.NOTHING
        other.idle()
        await asyncio.wait_for(idle.wait(), 10)
        assert late == []
        busy.stop()
        other.stop()

    asyncio.run(run())
