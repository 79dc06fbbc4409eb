from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest

from flambeau.batch_queue import BatchQueue
from flambeau.batcher import Batcher, BatchPolicy
from flambeau.errors import (
    DeadlineExceeded,
    InvalidInput,
    NoWorker,
    Quarantined,
    QueueFull,
    WorkerDied,
    WorkerTimeout,
)
from flambeau.messages import (
    BatchDone,
    Chunk,
    Failure,
    FailureKind,
    InferenceRequest,
    Input,
    MetricSample,
    Reply,
)
from flambeau.pending import PendingRequest
from flambeau.priority_queue import PriorityQueue
from flambeau.suspects import RetryBudget
from flambeau.testing import FakeWorker, echo, make_request

POLICY = BatchPolicy(label='Model "m"')
Story = Callable[[], Awaitable[None]]


class Observed:
    """Remembers what the batcher reports."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.waits_s: list[float] = []
        self.roundtrips_s: list[float] = []
        self.num_rerun = 0
        self.num_poison = 0
        self.num_refused = 0

    def batch_started(
        self, *, size: int, queue_waits_s: Sequence[float], versions_given: Sequence[bool]
    ) -> None:
        assert len(queue_waits_s) == len(versions_given) == size
        self.sizes.append(size)
        self.waits_s += queue_waits_s

    def batch_done(
        self, *, handler_s: float, roundtrip_s: float, request_ids: Iterable[str]
    ) -> None:
        assert roundtrip_s >= handler_s >= 0
        self.roundtrips_s.append(roundtrip_s)

    def requests_rerun(self, number: int) -> None:
        self.num_rerun += number

    def poison_found(self) -> None:
        self.num_poison += 1

    def poison_refused(self) -> None:
        self.num_refused += 1

    def samples(self, samples: Sequence[MetricSample]) -> None:
        raise AssertionError(f"the worker sends none, but there are {samples}")


def make_batcher(
    *,
    batch: int = 4,
    size: int = 100,
    hold_s: float = 0.0,
    observer: Observed | None = None,
    policy: BatchPolicy = POLICY,
) -> Batcher:
    queue: BatchQueue[PendingRequest] = BatchQueue(
        max_size=size, max_batch_size=batch, hold_s=hold_s
    )
    return Batcher(
        queue,
        policy,
        observer=observer or Observed(),
        loop=asyncio.get_running_loop(),
    )


def body(reply: Reply) -> bytes:
    return bytes(reply.body)


async def settle() -> None:
    """Let everything that is due on the loop happen."""
    for _ in range(10):
        await asyncio.sleep(0)


class Body(bytearray):
    """Bytes that can be watched."""


class Asker:
    """Holds its request, which tells it of its answer."""

    def __init__(self, batcher: Batcher, content: Body) -> None:
        self.answered = asyncio.Event()
        self.pending = batcher.submit(
            InferenceRequest("id", [], [Input("body", None, memoryview(content))]),
            on_result=lambda _: self.answered.set(),
        )


def test_an_answered_request_is_forgotten_without_the_garbage_collector() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(), FakeWorker(lambda _: echo(make_request(b"done")))
        batcher.add(worker)
        asker = Asker(batcher, content := Body(b"large"))
        gone = weakref.ref(content)
        del content
        await asker.answered.wait()
        await settle()
        worker.batches.clear()
        del asker
        assert gone() is None

    gc.disable()
    try:
        asyncio.run(story())
    finally:
        gc.enable()


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
        once = BatchPolicy(label='Model "m"', retry=False)
        batcher, lost, other = make_batcher(policy=once), FakeWorker(held=True), FakeWorker()
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


async def learned(batcher: Batcher, worker: FakeWorker, *, batch: int) -> None:
    """Let the batcher learn that a full batch takes no time."""
    for _ in range(3):
        pending = [batcher.submit(make_request()) for _ in range(batch)]
        await settle()
        worker.answer_next()
        await asyncio.gather(*(each.reply for each in pending))
    worker.batches.clear()


def test_the_only_worker_has_the_next_full_batch_while_it_is_busy() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(batch=2), FakeWorker(held=True)
        batcher.add(worker)
        await learned(batcher, worker, batch=2)
        pending = [batcher.submit(make_request(b"%d" % number)) for number in range(7)]
        await settle()
        assert [len(batch) for batch in worker.batches] == [2, 2]
        assert (batcher.num_running, batcher.num_waiting) == (4, 3)
        for _ in range(4):
            worker.answer_next()
            await settle()
        assert [len(batch) for batch in worker.batches] == [2, 2, 2, 1]
        assert [body(await each.reply) for each in pending] == [b"%d" % n for n in range(7)]

    asyncio.run(story())


def test_with_another_worker_nothing_waits_behind_a_busy_one() -> None:
    async def story() -> None:
        batcher, workers = make_batcher(batch=1), [FakeWorker(held=True), FakeWorker(held=True)]
        batcher.add(workers[0])
        await learned(batcher, workers[0], batch=1)
        batcher.add(workers[1])
        for _ in range(4):
            batcher.submit(make_request())
        await settle()
        assert [len(worker.batches) for worker in workers] == [1, 1]

    asyncio.run(story())


def test_what_a_lost_worker_had_not_begun_is_not_to_blame() -> None:
    async def story() -> None:
        batcher, lost, other = make_batcher(batch=1), FakeWorker(held=True), FakeWorker(held=True)
        batcher.add(lost)
        await learned(batcher, lost, batch=1)
        poison, innocent = [batcher.submit(make_request()) for _ in range(2)]
        await settle()
        lost.fail_next(WorkerTimeout("too slow"))
        lost.fail_next(WorkerDied("Worker died."))
        with pytest.raises(WorkerTimeout):
            await poison.reply
        batcher.add(other)
        await settle()
        other.fail_next(WorkerDied("Worker died."))  # for once, innocent requests are run again
        await settle()
        third = FakeWorker()
        batcher.add(third)
        assert (await innocent.reply).status == 200

    asyncio.run(story())


def die_of_poison(request: InferenceRequest) -> Reply:
    if bytes(request.inputs[0].body) == b"poison":
        raise WorkerDied("Worker died.")
    return echo(request)


def test_poison_ends_two_workers_and_harms_no_neighbour() -> None:
    async def story() -> None:
        batcher, workers = make_batcher(batch=8), [FakeWorker(die_of_poison) for _ in range(4)]
        bodies = [b"a", b"b", b"poison", b"c"]
        pending = [batcher.submit(make_request(each)) for each in bodies]
        lost = 0
        for worker in workers:
            batcher.add(worker)
            await settle()
            if any([bytes(r.inputs[0].body)] == [b"poison"] for b in worker.batches for r in b):
                lost += 1
        assert [body(await pending[place].reply) for place in (0, 1, 3)] == [b"a", b"b", b"c"]
        with pytest.raises(WorkerDied):
            await pending[2].reply
        assert lost == 2
        runs = [len(batch) for worker in workers for batch in worker.batches]
        assert sorted(runs) == [1, 1, 1, 1, 4]

    asyncio.run(story())


def test_suspects_wait_for_the_replacement_while_others_are_served() -> None:
    async def story() -> None:
        batcher, lost, other = make_batcher(batch=2), FakeWorker(held=True), FakeWorker()
        batcher.add(lost)
        suspects = [batcher.submit(make_request(each)) for each in (b"a", b"b")]
        await settle()
        batcher.add(other)
        lost.fail_next(WorkerDied("Worker died."))
        await settle()
        assert body(await batcher.submit(make_request(b"c")).reply) == b"c"
        assert batcher.num_waiting == 2
        replacement = FakeWorker(held=True)
        batcher.add(replacement)
        await settle()
        assert body(await batcher.submit(make_request(b"d")).reply) == b"d"
        for pending in suspects:
            replacement.answer_next()
            await pending.reply
            await settle()
        assert [[bytes(r.inputs[0].body) for r in b] for b in replacement.batches] == [
            [b"a"],
            [b"b"],
        ]
        assert [len(batch) for batch in other.batches] == [1, 1]

    asyncio.run(story())


def test_suspects_run_on_another_worker_when_no_replacement_comes() -> None:
    async def story() -> None:
        batcher, lost, other = make_batcher(batch=2), FakeWorker(held=True), FakeWorker()
        batcher.add(lost)
        suspects = [batcher.submit(make_request(each)) for each in (b"a", b"b")]
        await settle()
        batcher.add(other)
        lost.fail_next(WorkerDied("Worker died."))
        await settle()
        assert not other.batches
        await batcher.release(lost)
        assert [body(await pending.reply) for pending in suspects] == [b"a", b"b"]
        assert [len(batch) for batch in other.batches] == [1, 1]

    asyncio.run(story())


def test_what_ended_two_workers_is_refused_until_its_time_is_over() -> None:
    async def story() -> None:
        observer = Observed()
        batcher = make_batcher(batch=8, observer=observer)
        poison = batcher.submit(make_request(b"poison"))
        for _ in range(2):
            batcher.add(FakeWorker(die_of_poison))
            await settle()
        with pytest.raises(WorkerDied):
            await poison.reply
        third = FakeWorker(die_of_poison)
        batcher.add(third)
        with pytest.raises(Quarantined, match="not run again for 300 s"):
            batcher.submit(make_request(b"poison", request_id="another"))
        assert body(await batcher.submit(make_request(b"cheese")).reply) == b"cheese"
        assert (observer.num_rerun, observer.num_poison, observer.num_refused) == (1, 1, 1)

    asyncio.run(story())


def test_a_worker_killed_from_outside_puts_nobody_into_quarantine() -> None:
    async def story() -> None:
        batcher, killed = make_batcher(), FakeWorker(held=True)
        batcher.add(killed)
        pending = batcher.submit(make_request(b"innocent"))
        await settle()
        killed.fail_next(WorkerDied("Worker died."))
        await settle()
        batcher.add(FakeWorker())
        assert body(await pending.reply) == b"innocent"
        assert body(await batcher.submit(make_request(b"innocent")).reply) == b"innocent"

    asyncio.run(story())


def test_the_second_timeout_of_the_same_request_puts_it_into_quarantine() -> None:
    async def story() -> None:
        batcher = make_batcher()
        for _ in range(2):
            worker = FakeWorker(held=True)
            batcher.add(worker)
            pending = batcher.submit(make_request(b"endless"))
            await settle()
            worker.fail_next(WorkerTimeout("too slow"))
            with pytest.raises(WorkerTimeout):
                await pending.reply
        with pytest.raises(Quarantined):
            batcher.submit(make_request(b"endless"))

    asyncio.run(story())


def test_a_tenth_of_the_traffic_may_run_again_and_a_reserve() -> None:
    budget = RetryBudget(max_batch_size=8)
    assert budget.take(256, num_served=0)
    assert not budget.take(1, num_served=0)
    assert budget.take(10, num_served=100)
    assert not budget.take(1, num_served=100)
    assert budget.take(256, num_served=1_000_000)
    assert not budget.take(1, num_served=1_000_000)


def test_requests_fail_at_once_when_too_many_have_run_again() -> None:
    async def story() -> None:
        batcher, lost = make_batcher(batch=300, size=300), FakeWorker(held=True)
        batcher.add(lost)
        pending = [batcher.submit(make_request()) for _ in range(300)]
        await settle()
        lost.fail_next(WorkerDied("Worker died."))
        replies = await asyncio.gather(*(p.reply for p in pending), return_exceptions=True)
        assert all(isinstance(reply, WorkerDied) for reply in replies)

    asyncio.run(story())


def test_a_suspect_keeps_its_deadline() -> None:
    async def story() -> None:
        policy = BatchPolicy(label='Model "m"', client_timeout_s=0.01)
        batcher, lost = make_batcher(policy=policy), FakeWorker(held=True)
        batcher.add(lost)
        pending = batcher.submit(make_request())
        await settle()
        lost.fail_next(WorkerDied("Worker died."))
        await settle()
        assert batcher.num_waiting == 1
        with pytest.raises(DeadlineExceeded):
            await pending.reply
        assert batcher.num_waiting == 0

    asyncio.run(story())


def test_a_request_that_outlasted_its_worker_alone_is_not_tried_again() -> None:
    async def story() -> None:
        batcher, slow, other = make_batcher(), FakeWorker(held=True), FakeWorker()
        batcher.add(slow)
        pending = batcher.submit(make_request())
        await settle()
        slow.fail_next(WorkerTimeout("too slow"))
        batcher.add(other)
        with pytest.raises(WorkerTimeout, match="too slow"):
            await pending.reply
        assert not other.batches

    asyncio.run(story())


def test_what_is_put_back_into_a_closed_batcher_is_answered() -> None:
    async def story() -> None:
        batcher, lost = make_batcher(), FakeWorker(held=True)
        batcher.add(lost)
        pending = batcher.submit(make_request())
        await settle()
        batcher.close("the model is being removed")
        lost.fail_next(WorkerDied("Worker died."))
        with pytest.raises(NoWorker, match="being removed"):
            await pending.reply

    asyncio.run(story())


def test_a_request_past_its_deadline_is_answered_so() -> None:
    async def story() -> None:
        policy = BatchPolicy(label='Model "m"', client_timeout_s=0.001)
        batcher, worker = make_batcher(policy=policy), FakeWorker(held=True)
        waiting = batcher.submit(make_request())
        with pytest.raises(DeadlineExceeded, match="clientTimeoutInMills 1;"):
            await waiting.reply
        batcher.add(worker)
        await settle()
        assert not worker.batches
        running = batcher.submit(make_request())
        await settle()
        with pytest.raises(DeadlineExceeded):
            await running.reply
        worker.answer_next()
        await settle()
        assert batcher.num_running == 0

    asyncio.run(story())


def queue_that_knows(cost_s: float, *, timeout_s: float) -> BatchQueue[PendingRequest]:
    """A queue that has seen single requests take so long."""
    queue: BatchQueue[PendingRequest] = BatchQueue(
        max_size=100, max_batch_size=4, timeout_s=timeout_s
    )
    for _ in range(3):
        queue.answered_batch("a worker", size=1, seconds=cost_s)
    return queue


def test_a_request_that_cannot_make_its_deadline_is_refused_at_once() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        policy = BatchPolicy(label='Model "m"', client_timeout_s=150.0)
        queue = queue_that_knows(100.0, timeout_s=150.0)
        batcher = Batcher(queue, policy, observer=Observed(), loop=loop)
        worker = FakeWorker(held=True)
        batcher.add(worker)
        running = batcher.submit(make_request())
        await settle()
        with pytest.raises(DeadlineExceeded, match="cannot answer within clientTimeoutInMills"):
            batcher.submit(make_request())
        worker.answer_next()
        await running.reply
        await settle()
        batcher.submit(make_request()).abandon()

    asyncio.run(story())


def test_a_request_whose_batch_would_be_too_late_is_not_computed() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        policy = BatchPolicy(label='Model "m"', client_timeout_s=100.0)
        queue = queue_that_knows(90.0, timeout_s=100.0)
        batcher = Batcher(queue, policy, observer=Observed(), loop=loop)
        first, last = batcher.submit(make_request(b"1")), batcher.submit(make_request(b"2"))
        worker = FakeWorker()
        batcher.add(worker)  # together they would hardly make it, the last one alone will
        with pytest.raises(DeadlineExceeded, match="cannot answer within clientTimeoutInMills"):
            await first.reply
        assert body(await last.reply) == b"2"
        assert [len(batch) for batch in worker.batches] == [1]

    asyncio.run(story())


def test_with_a_job_ticket_nothing_waits_for_a_busy_worker() -> None:
    async def story() -> None:
        policy = BatchPolicy(label='Model "m"', needs_free_worker=True)
        batcher, worker = make_batcher(policy=policy), FakeWorker(held=True)
        with pytest.raises(QueueFull, match="useJobTicket"):
            batcher.submit(make_request())
        batcher.add(worker)
        first = batcher.submit(make_request())
        with pytest.raises(QueueFull, match="useJobTicket"):
            batcher.submit(make_request())
        await settle()
        with pytest.raises(QueueFull, match="useJobTicket"):
            batcher.submit(make_request())
        worker.answer_next()
        await first.reply
        await settle()
        batcher.submit(make_request()).reply.cancel()

    asyncio.run(story())


class Streaming(FakeWorker):
    """Sends a part of each answer before the rest, when told to."""

    def __init__(self) -> None:
        super().__init__(held=True)
        self.on_chunk: Callable[[Chunk], None] = lambda _: None

    def run(
        self,
        requests: Sequence[InferenceRequest],
        *,
        on_chunk: Callable[[Chunk], None] = lambda _: None,
    ) -> asyncio.Future[BatchDone]:
        self.on_chunk = on_chunk
        return super().run(requests, on_chunk=on_chunk)

    def send(self, text: bytes, *, place: int = 0) -> None:
        reply = Reply(status=200, phrase="", headers=[], body=memoryview(text))
        self.on_chunk(Chunk(batch_id=1, place=place, reply=reply))


def test_parts_arrive_one_by_one_and_end_with_the_result() -> None:
    async def story() -> None:
        batcher, worker = make_batcher(), Streaming()
        batcher.add(worker)
        streamed = batcher.submit(make_request(b"end"))
        plain = batcher.submit(make_request(b"plain"))
        await settle()
        worker.send(b"one")
        worker.send(b"two")
        assert body(await streamed.reply) == b"one"
        assert streamed.rest is not None
        assert body(await anext(streamed.rest)) == b"two"
        assert not plain.reply.done()
        worker.answer_next()
        assert [body(part) async for part in streamed.rest] == [b"end"]
        assert body(await plain.reply) == b"plain"
        assert plain.rest is None

    asyncio.run(story())


def test_an_answer_that_breaks_off_says_so_and_is_not_begun_again() -> None:
    async def story() -> None:
        batcher, worker, other = make_batcher(), Streaming(), FakeWorker()
        batcher.add(worker)
        pending = batcher.submit(make_request())
        await settle()
        worker.send(b"one")
        worker.fail_next(WorkerDied("Worker died."))
        batcher.add(other)
        assert body(await pending.reply) == b"one"
        assert pending.rest is not None
        with pytest.raises(WorkerDied):
            await anext(pending.rest)
        assert not other.batches

    asyncio.run(story())


def test_concurrent_requests_fill_a_worker_and_end_apart() -> None:
    async def story() -> None:
        policy = BatchPolicy(label='Model "m"', concurrency=2)
        batcher, worker = make_batcher(batch=1, policy=policy), FakeWorker(held=True)
        batcher.add(worker)
        first, second, third = (batcher.submit(make_request(bytes([i]))) for i in range(3))
        await settle()
        assert (len(worker.batches), batcher.num_running, batcher.num_waiting) == (2, 2, 1)
        first.abandon()
        await settle()
        assert (len(worker.batches), batcher.num_running) == (3, 2)
        for _ in range(2):
            worker.answer_next()
        assert body(await second.reply) == b"\1"
        assert body(await third.reply) == b"\2"

    asyncio.run(story())


def test_the_time_of_a_concurrent_request_is_its_own() -> None:
    async def story() -> None:
        policy, observed = BatchPolicy(label="", concurrency=2), Observed()
        batcher = make_batcher(batch=1, policy=policy, observer=observed)
        worker = FakeWorker(held=True)
        batcher.add(worker)
        pending = [batcher.submit(make_request()) for _ in range(2)]
        await settle()
        loop = asyncio.get_running_loop()
        both_run_until = loop.time() + 0.002
        while loop.time() < both_run_until:
            pass
        for each in pending:
            worker.answer_next()
            await each.reply
        assert min(observed.roundtrips_s) >= 0.002

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


def test_who_makes_room_for_a_more_urgent_request_is_told_so() -> None:
    async def story() -> None:
        queue = PriorityQueue(header="x-priority", max_size=1, max_batch_size=1)
        loop = asyncio.get_running_loop()
        batcher = Batcher(queue, POLICY, observer=Observed(), loop=loop)
        low = batcher.submit(urgent(b"low", "low"))
        high = batcher.submit(urgent(b"high", "high"))
        with pytest.raises(QueueFull, match="has more urgent requests than may wait") as caught:
            await low.reply
        assert caught.value.retry_after_s == 1
        batcher.add(FakeWorker())
        assert body(await high.reply) == b"high"

    asyncio.run(story())


def urgent(content: bytes, priority: str) -> InferenceRequest:
    request = make_request(content)
    return InferenceRequest(
        request_id=request.request_id,
        headers=[("x-priority", priority)],
        inputs=request.inputs,
    )


def test_a_full_queue_says_when_half_of_it_will_have_left() -> None:
    async def story() -> None:
        batcher = make_batcher(batch=1, size=1)
        batcher.submit(make_request(b"waits"))
        with pytest.raises(QueueFull) as caught:
            batcher.submit(make_request(b"too many"))
        assert caught.value.retry_after_s == 1

    asyncio.run(story())
