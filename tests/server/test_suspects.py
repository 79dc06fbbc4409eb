"""Requests of lost workers get a worker to themselves, however busy all workers are."""

from __future__ import annotations

import asyncio

import pytest

from flambeau.batch_queue import BatchQueue
from flambeau.batcher import Batcher, BatchPolicy
from flambeau.errors import QueueFull, WorkerDied
from flambeau.pending import PendingRequest
from flambeau.testing import FakeWorker, make_request
from tests.server.test_batcher import Observed, body, learned, make_batcher, settle

TWO_AT_A_TIME = BatchPolicy(label='Model "m"', concurrency=2)


class CountingQueue(BatchQueue[PendingRequest]):
    """A queue that counts how often it is looked at."""

    num_looks = 0

    def take_expired(self, *, now: float) -> list[PendingRequest]:
        self.num_looks += 1
        return super().take_expired(now=now)


async def lose(batcher: Batcher, worker: FakeWorker, *, num_batches: int) -> None:
    """End a worker that is not replaced."""
    for _ in range(num_batches):
        worker.fail_next(WorkerDied("Worker died."))
    await settle()
    await batcher.release(worker)


async def keep_busy(batcher: Batcher, worker: FakeWorker, *, turns: int) -> None:
    """Let it answer so many batches, while as many requests come as leave."""
    for _ in range(turns):
        batcher.submit(make_request(b"load"))
        worker.answer_next()
        await settle()


def test_under_constant_load_a_worker_of_concurrent_requests_is_set_apart_for_suspects() -> None:
    async def story() -> None:
        batcher = make_batcher(batch=1, policy=TWO_AT_A_TIME)
        lost, other = FakeWorker(held=True), FakeWorker(held=True)
        batcher.add(lost)
        suspects = [batcher.submit(make_request(each)) for each in (b"a", b"b")]
        await settle()
        batcher.add(other)
        load = [batcher.submit(make_request(b"load")) for _ in range(6)]
        await settle()
        await lose(batcher, lost, num_batches=2)
        await keep_busy(batcher, other, turns=4)  # two that it had, then one suspect each
        assert [body(await each.reply) for each in suspects] == [b"a", b"b"]
        await keep_busy(batcher, other, turns=4)
        assert [body(await each.reply) for each in load] == [b"load"] * 6

    asyncio.run(story())


def test_the_only_worker_has_no_batch_ahead_while_suspects_wait_for_it() -> None:
    async def story() -> None:
        batcher, lost, other = make_batcher(batch=1), FakeWorker(held=True), FakeWorker(held=True)
        batcher.add(other)
        await learned(batcher, other, batch=1)
        batcher.add(lost)
        suspect, *_ = [batcher.submit(make_request(each)) for each in (b"a", b"b", b"c", b"d")]
        await settle()
        await lose(batcher, lost, num_batches=1)
        await keep_busy(batcher, other, turns=2)  # what it had, then the suspect
        assert body(await suspect.reply) == b"a"

    asyncio.run(story())


def test_suspects_do_not_wait_for_a_worker_that_leaves() -> None:
    async def story() -> None:
        batcher, lost, leaving = make_batcher(batch=2), FakeWorker(held=True), FakeWorker(held=True)
        batcher.add(lost)
        first, second = (batcher.submit(make_request(each)) for each in (b"a", b"b"))
        await settle()
        batcher.add(leaving)
        await lose(batcher, lost, num_batches=1)
        await settle()
        batcher.add(FakeWorker())
        release = asyncio.ensure_future(batcher.release(leaving))
        assert body(await second.reply) == b"b"
        leaving.answer_next()
        await release
        assert body(await first.reply) == b"a"

    asyncio.run(story())


def test_the_queue_is_left_alone_until_the_worker_that_is_set_apart_is_free() -> None:
    async def story() -> None:
        queue = CountingQueue(max_size=10, max_batch_size=1)
        loop = asyncio.get_running_loop()
        batcher = Batcher(queue, TWO_AT_A_TIME, observer=Observed(), loop=loop)
        lost, other = FakeWorker(held=True), FakeWorker(held=True)
        batcher.add(other)
        batcher.add(lost)
        for _ in range(5):
            batcher.submit(make_request())
        await settle()
        await lose(batcher, lost, num_batches=2)
        other.answer_next()
        await settle()
        num_looks = queue.num_looks
        await settle()
        assert (queue.num_looks, batcher.num_running, batcher.num_waiting) == (num_looks, 1, 3)

    asyncio.run(story())


def test_with_a_job_ticket_a_worker_that_is_set_apart_counts_as_busy() -> None:
    async def story() -> None:
        policy = BatchPolicy(label='Model "m"', concurrency=2, needs_free_worker=True)
        batcher = make_batcher(batch=1, policy=policy)
        lost, other = FakeWorker(held=True), FakeWorker(held=True)
        batcher.add(other)
        batcher.add(lost)
        for _ in range(4):
            batcher.submit(make_request())
        await settle()
        await lose(batcher, lost, num_batches=2)
        other.answer_next()
        await settle()
        with pytest.raises(QueueFull, match="useJobTicket lets no request wait"):
            batcher.submit(make_request())

    asyncio.run(story())
