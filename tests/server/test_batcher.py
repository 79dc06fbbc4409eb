from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from flambeau.batch_queue import BatchQueue
from flambeau.batcher import Batcher, PendingRequest
from flambeau.errors import InvalidInput, NoWorker, QueueFull, WorkerDied
from flambeau.messages import Failure, FailureKind, InferenceRequest, Reply
from flambeau.testing import FakeWorker, echo, make_request

Story = Callable[[], Awaitable[None]]


class Observed:
    """Remembers what the batcher reports."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.waits_s: list[float] = []

    def batch_started(self, *, size: int, queue_waits_s: Sequence[float]) -> None:
        self.sizes.append(size)
        self.waits_s += queue_waits_s

    def batch_done(self, *, handler_s: float) -> None:
        assert handler_s >= 0


def make_batcher(
    *, batch: int = 4, size: int = 100, hold_s: float = 0.0, observer: Observed | None = None
) -> Batcher:
    queue: BatchQueue[PendingRequest] = BatchQueue(
        max_size=size, max_batch_size=batch, hold_s=hold_s
    )
    return Batcher(
        queue,
        label='Model "m"',
        observer=observer or Observed(),
        loop=asyncio.get_running_loop(),
    )


def body(reply: Reply) -> bytes:
    return bytes(reply.body)


async def settle() -> None:
    """Let everything that is due on the loop happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_of_one_loop_step_share_a_batch() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(), FakeWorker()
        batcher.add(worker)
        pending = [batcher.submit(make_request(bytes([i]))) for i in range(3)]
        replies = await asyncio.gather(*(p.reply for p in pending))
        assert [body(reply) for reply in replies] == [b"\0", b"\1", b"\2"]
        assert [len(batch) for batch in worker.batches] == [3]

    asyncio.run(story())


def test_requests_batch_up_while_the_worker_is_busy() -> None:
    async def story() -> None:
        observer = Observed()
        batcher, worker = make_batcher(observer=observer), FakeWorker(held=True)
        batcher.add(worker)
        first = batcher.submit(make_request())
        await settle()
        others = [batcher.submit(make_request()) for _ in range(6)]
        worker.answer_next()
        await first.reply
        await settle()
        worker.answer_next()
        await asyncio.gather(*(p.reply for p in others[:4]))
        await settle()
        worker.answer_next()
        await asyncio.gather(*(p.reply for p in others[4:]))
        assert observer.sizes == [1, 4, 2]
        assert len(observer.waits_s) == 7

    asyncio.run(story())


def test_a_cancelled_request_does_not_reach_the_worker() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(), FakeWorker(held=True)
        batcher.add(worker)
        first = batcher.submit(make_request(b"first"))
        await settle()
        gone, stays = batcher.submit(make_request(b"gone")), batcher.submit(make_request(b"stays"))
        gone.reply.cancel()
        await settle()
        worker.answer_next()
        await first.reply
        await settle()
        worker.answer_next()
        assert body(await stays.reply) == b"stays"
        assert [len(batch) for batch in worker.batches] == [1, 1]

    asyncio.run(story())


def test_a_caller_that_leaves_during_its_batch_costs_the_others_nothing() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(), FakeWorker(held=True)
        batcher.add(worker)
        pending = [batcher.submit(make_request(bytes([i]))) for i in range(3)]
        await settle()
        pending[1].reply.cancel()
        worker.answer_next()
        assert body(await pending[0].reply) == b"\0"
        assert body(await pending[2].reply) == b"\2"

    asyncio.run(story())


def test_one_failure_in_a_batch_fails_that_request_alone() -> None:
    def answer(request: InferenceRequest) -> Reply | Failure:
        if bytes(request.inputs[0].body) == b"bad":
            return Failure(kind=FailureKind.INVALID_INPUT, message="not an image")
        return echo(request)

    async def story() -> None:
        batcher = make_batcher()
        batcher.add(FakeWorker(answer))
        good, bad = batcher.submit(make_request(b"good")), batcher.submit(make_request(b"bad"))
        assert body(await good.reply) == b"good"
        with pytest.raises(InvalidInput, match="not an image"):
            await bad.reply

    asyncio.run(story())


def test_a_lost_worker_fails_its_own_batch_and_gets_no_other() -> None:
    async def story() -> None:
        batcher, lost, other = make_batcher(batch=1), FakeWorker(held=True), FakeWorker()
        batcher.add(lost)
        pending = batcher.submit(make_request())
        await settle()
        lost.fail_next(WorkerDied("Worker died."))
        with pytest.raises(WorkerDied, match="Worker died"):
            await pending.reply
        later = batcher.submit(make_request(b"later"))
        await settle()
        assert not later.reply.done()
        batcher.add(other)
        assert body(await later.reply) == b"later"
        assert len(lost.batches) == 1

    asyncio.run(story())


def test_a_full_queue_refuses_and_names_the_limit() -> None:
    async def story() -> None:
        batcher = make_batcher(size=2)
        waiting = [batcher.submit(make_request()) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests wait already"):
            batcher.submit(make_request())
        waiting[0].reply.cancel()
        await settle()
        batcher.submit(make_request())

    asyncio.run(story())


def test_a_released_worker_finishes_its_batch_and_takes_no_more() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(), FakeWorker(held=True)
        batcher.add(worker)
        pending = batcher.submit(make_request())
        await settle()
        releasing = asyncio.ensure_future(batcher.release(worker))
        await settle()
        assert not releasing.done()
        worker.answer_next()
        await releasing
        await pending.reply
        batcher.submit(make_request())
        await settle()
        assert len(worker.batches) == 1

    asyncio.run(story())


def test_draining_waits_for_queued_and_running_requests() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(batch=1), FakeWorker(held=True)
        batcher.add(worker)
        running, queued = batcher.submit(make_request()), batcher.submit(make_request())
        await settle()
        draining = asyncio.ensure_future(batcher.wait_drained())
        worker.answer_next()
        await running.reply
        await settle()
        assert not draining.done()
        worker.answer_next()
        await queued.reply
        await draining

    asyncio.run(story())


def test_what_waits_can_be_failed_when_no_worker_will_come() -> None:
    async def story() -> None:
        batcher = make_batcher()
        pending = batcher.submit(make_request())
        batcher.fail_waiting("all workers are gone")
        with pytest.raises(NoWorker, match="all workers are gone"):
            await pending.reply
        await batcher.wait_drained()

    asyncio.run(story())


def test_a_held_batch_leaves_when_its_window_closes() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(hold_s=0.01), FakeWorker()
        batcher.add(worker)
        started_at = asyncio.get_running_loop().time()
        await batcher.submit(make_request()).reply
        assert asyncio.get_running_loop().time() - started_at >= 0.01

    asyncio.run(story())
