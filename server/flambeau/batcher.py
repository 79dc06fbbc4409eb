"""Driving one version's queue: free workers take batches, replies go back to their requests.

Everything here runs on the front's event loop, so each method is one uninterrupted step. The
decision when a batch leaves is the queue's; which workers exist is `ModelVersion`'s.

When a worker is lost with a batch, its requests run once more, one by one on one worker, which is
the lost one's replacement where one comes: whichever of them ends that, too, is to blame and fails,
the others are answered (`suspects.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flambeau.errors import (
    DeadlineExceeded,
    FlambeauError,
    HandlerFailed,
    InvalidInput,
    NoWorker,
    OutOfResources,
    QueueFull,
    UnsupportedContentType,
    WorkerError,
)
from flambeau.messages import (
    BatchDone,
    Chunk,
    Failure,
    FailureKind,
    InferenceRequest,
    MetricSample,
    Reply,
)
from flambeau.pending import PendingRequest, SequenceTag
from flambeau.quarantine import Quarantine
from flambeau.reply_parts import ReplyParts
from flambeau.request_queue import RequestQueue
from flambeau.suspects import SuspectObserver, Suspects

_MAX_RETRY_AFTER_S = 60  # more would be a guess

_FAILURE_CLASSES: dict[FailureKind, type[FlambeauError]] = {
    FailureKind.INVALID_INPUT: InvalidInput,
    FailureKind.UNSUPPORTED_CONTENT_TYPE: UnsupportedContentType,
    FailureKind.OUT_OF_RESOURCES: OutOfResources,
}


class Worker(Hashable, Protocol):
    """What the batcher needs of a worker: `WorkerProcess`, or `FakeWorker` in tests."""

    def run(
        self, requests: Sequence[InferenceRequest], *, on_chunk: Callable[[Chunk], None]
    ) -> asyncio.Future[BatchDone]:
        """Answer a batch, one result per request; WorkerError when the worker is lost."""
        ...


class BatchObserver(SuspectObserver, Protocol):
    """Told about every batch; `metrics.py` counts."""

    def batch_started(
        self, *, size: int, queue_waits_s: Sequence[float], versions_given: Sequence[bool]
    ) -> None: ...

    def batch_done(
        self, *, handler_s: float, roundtrip_s: float, request_ids: Iterable[str]
    ) -> None: ...

    def samples(self, samples: Sequence[MetricSample]) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPolicy:
    """How one version's batches are run.

    Attributes:
        label: What messages call the version.
        concurrency: Batches that one worker may have at a time, 1 or more; more than 1 goes with
            batches of one request, which can be cancelled.
        max_batch_size: Most requests of one batch.
        retry: Whether the requests of a lost worker run again.
        quarantine_s: Seconds for which a request that ended two workers is refused; 0 for none.
        client_timeout_s: Seconds from a request's arrival to the beginning of its answer; 0 for no
            limit.
        needs_free_worker: Refuse requests while every worker is busy, instead of queueing them.
    """

    label: str
    concurrency: int = 1
    max_batch_size: int = 1
    retry: bool = True
    quarantine_s: float = 300.0
    client_timeout_s: float = 0.0
    needs_free_worker: bool = False


@dataclass(eq=False, slots=True)
class _Post:
    """A worker and the batches it has.

    Attributes:
        worker: Answers one batch at a time, or `BatchPolicy.concurrency`.
        batches: Those it has been sent, oldest first; one more than it answers at a time where the
            queue gave one ahead.
        is_leaving: Whether it gets no more.
        is_lost: Whether it died with the oldest.
        idle_since: When it had answered the last one.
        decode_s: Seconds of its last batch that it could have spent before the batch's turn.
    """

    worker: Worker
    batches: list[asyncio.Future[BatchDone]] = field(default_factory=list)
    is_leaving: bool = False
    is_lost: bool = False
    idle_since: float = 0.0
    decode_s: float = 0.0


class Batcher:
    """Owner of a version's waiting and running requests."""

    def __init__(
        self,
        queue: RequestQueue,
        policy: BatchPolicy,
        *,
        observer: BatchObserver,
        loop: asyncio.AbstractEventLoop,
        awaits_worker: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin without workers.

        Args:
            queue: Where requests wait.
            policy: How batches are run.
            observer: Told about them.
            loop: The loop that this runs on.
            awaits_worker: Whether a worker is on its way.
        """
        # for the life of the version
        self._queue = queue
        self._policy = policy
        self._observer = observer
        self._loop = loop
        # every worker; and those that can take a batch, least recently used first
        self._posts: dict[Worker, _Post] = {}
        self._free: list[_Post] = []
        self._num_running = 0
        self._num_taken = 0  # of requests, and of batches that were answered, so far
        self._num_answered = 0
        # requests of lost workers, and the worker that is set apart for them
        self._suspects = Suspects(
            Quarantine(seconds=policy.quarantine_s),
            label=policy.label,
            retry=policy.retry,
            max_batch_size=policy.max_batch_size,
            observer=observer,
        )
        self._quarantine = self._suspects.quarantine
        self._examiner: _Post | None = None
        self._awaits_worker = awaits_worker
        # a dispatch that is due: at the end of this loop step, or at a time to come
        self._dispatch_soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        # resolved when nothing waits and nothing runs; None while nobody asks
        self._drained: asyncio.Future[None] | None = None
        # why nothing will be answered any more; None while it will
        self._closed: str | None = None

    @property
    def num_waiting(self) -> int:
        """Requests that no worker has yet."""
        return len(self._queue) + len(self._suspects.waiting)

    @property
    def num_running(self) -> int:
        """Requests that workers are answering."""
        return self._num_running

    @property
    def num_answered(self) -> int:
        """Batches that workers have answered so far."""
        return self._num_answered

    @property
    def room(self) -> int:
        """How many more requests may wait."""
        return max(0, self._queue.max_size - len(self._queue))

    def submit(
        self,
        request: InferenceRequest,
        *,
        sequence: SequenceTag | None = None,
        version_given: bool = True,
        on_result: Callable[[PendingRequest], None] | None = None,
    ) -> PendingRequest:
        """Queue one request; it is resolved when a worker has answered.

        Args:
            request: What the worker will see.
            sequence: Its place in a sequence, or None.
            version_given: Whether the client asked for this version, not for the default.
            on_result: Called with it once it is resolved.

        Raises:
            QueueFull: It may not wait: the queue is full, no worker is free and waiting is not
                wanted, or its sequence is unknown or has enough requests waiting.
            DeadlineExceeded: Those ahead of it will take all the time it has.
            Quarantined: It has ended two workers.
        """
        now = self._loop.time()
        if self._quarantine.sizes:
            self._suspects.check(request, now=now)
        pending = PendingRequest(
            request, now, self._withdraw, on_result, sequence, version_given=version_given
        )
        refusal = self._queue.refusal(pending)
        if refusal is None and self._policy.needs_free_worker:
            refusal = self._busy_text()
        if refusal is not None:
            raise QueueFull(
                f"{self._policy.label} has no worker to serve inference request. {refusal}",
                retry_after_s=self._retry_after_s(),
            )
        if self._policy.client_timeout_s:
            if self._queue.is_too_late(now=now, num_workers=len(self._posts)):
                raise self._too_late("cannot answer")
            pending.deadline = self._loop.call_later(
                self._policy.client_timeout_s, self._expire, pending
            )
        self._queue.put(pending, now=now)
        self._dispatch_later()
        return pending

    def end_sequence(self, sequence_id: str) -> None:
        """No more requests of a sequence will come; another one may have its place."""
        self._queue.end(sequence_id)
        self._dispatch_later()

    def add(self, worker: Worker) -> None:
        """Let a ready worker take batches."""
        post = self._posts[worker] = _Post(worker)
        if self._suspects.waiting and self._examiner is None:
            self._examiner = post
        self._free.append(post)
        self._dispatch_later()

    def is_busy(self, worker: Worker) -> bool:
        """Whether the worker has a batch at the moment."""
        post = self._posts.get(worker)
        return post is not None and bool(post.batches)

    async def release(self, worker: Worker) -> None:
        """Take a worker out; returns once it has answered the batches it has, if any."""
        post = self._posts.get(worker)
        if post is None:
            return
        post.is_leaving = True
        if post in self._free:
            self._free.remove(post)
        if post.batches:
            self._dispatch_later()  # suspects that waited for it go to another
            await asyncio.wait(post.batches)
        if self._posts.pop(worker, None) is not None:
            self._queue.worker_gone(worker)
            self._dispatch_later()

    def reconsider(self) -> None:
        """A worker is on its way now, or will not come."""
        self._dispatch_later()

    def fail_waiting(self, error_text: str) -> None:
        """Answer everything that waits with NoWorker: no worker will come."""
        for pending in (*self._suspects.take_all(), *self._queue.take_all()):
            self._fail(pending, NoWorker(error_text))
        self._note_drained()

    def close(self, error_text: str) -> None:
        """Fail what waits, and what will be put back from now on."""
        self._closed = error_text
        self.fail_waiting(error_text)

    async def wait_drained(self) -> None:
        """Wait until nothing waits and nothing runs."""
        while self.num_waiting or self._num_running:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    # requests that end before they are answered

    def _withdraw(self, pending: PendingRequest) -> None:
        """Nobody waits for its answer any more: a request still waiting leaves the queue."""
        if self._suspects.discard(pending):
            self._dispatch_later()  # no worker need be free for it any more
        elif self._queue.discard(pending):
            self._note_drained()

    def _expire(self, pending: PendingRequest) -> None:
        self._withdraw(pending)
        self._fail(pending, self._too_late("did not answer"))
        if pending.running is not None:
            pending.running.cancel()

    def _too_late(self, what: str) -> DeadlineExceeded:
        limit_ms = self._policy.client_timeout_s * 1000
        return DeadlineExceeded(
            f"{self._policy.label} {what} within clientTimeoutInMills {limit_ms:g}; "
            "retry later, add workers, or raise the limit"
        )

    def _retry_after_s(self) -> int:
        """When half of what waits will have been taken, in whole seconds; 1 to 60."""
        half_s = self._queue.drained_in_s(num_workers=len(self._posts)) / 2
        return math.ceil(min(max(half_s, 1.0), _MAX_RETRY_AFTER_S))

    def _busy_text(self) -> str | None:
        """Why a request that must not wait is refused; None when a worker is free for it."""
        free = sum(self._policy.concurrency - len(post.batches) for post in self._free_for_all())
        if len(self._queue) < free:
            return None
        return "All are busy, and useJobTicket lets no request wait; retry later or add workers."

    # batches

    def _dispatch_later(self) -> None:
        """Dispatch once per loop step, so that requests read in one step share a batch."""
        if self._dispatch_soon is None:
            self._dispatch_soon = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give batches to the workers that are free."""
        if self._dispatch_soon is not None:
            self._dispatch_soon.cancel()
            self._dispatch_soon = None
        now = self._loop.time()
        for pending in self._queue.take_displaced():
            self._fail(
                pending,
                QueueFull(
                    f"{self._policy.label} has more urgent requests than may wait; retry later",
                    retry_after_s=self._retry_after_s(),
                ),
            )
        for pending in self._queue.take_expired(now=now):
            self._fail(pending, NoWorker(f"{self._policy.label}: the request's sequence has ended"))
        if self._free:
            for pending in self._queue.take_late(now=now):
                self._fail(pending, self._too_late("cannot answer"))
        if self._suspects.waiting or self._examiner is not None:
            self._examine(now=now)
        for post in self._takers():
            if not self._queue:
                break
            self._give(post, now=now)
        if self._queue and len(self._posts) == 1 and self._policy.concurrency == 1:
            self._give_ahead(now=now)
        self._note_drained()
        self._arm_timer()

    def _free_for_all(self) -> list[_Post]:
        """Free workers, but for the one that suspects are waiting for."""
        next_examiner = self._next_examiner()
        return [post for post in self._free if post is not next_examiner]

    def _takers(self) -> list[_Post]:
        """Workers in the order in which they take batches."""
        free = self._free_for_all()
        if self._policy.concurrency > 1:
            return sorted(free, key=lambda post: len(post.batches))
        return free[::-1]  # the most recently used has the warmest caches

    def _give(self, post: _Post, *, now: float) -> None:
        """Give a worker the batches that are due and that it has room for."""
        while len(post.batches) < self._policy.concurrency:
            batch = self._queue.take(now=now, worker=post.worker, num_free=len(self._free))
            if not batch:
                return
            self._run(post, batch, now=now)
        self._free.remove(post)

    def _give_ahead(self, *, now: float) -> None:
        """Send the only worker, while it is busy, the batch that comes next anyway."""
        (post,) = self._posts.values()
        if len(post.batches) != 1 or post.is_leaving or self._examiner is post:
            return
        if self._next_examiner() is post:
            return
        if batch := self._queue.take_ahead(decode_s=post.decode_s):
            self._run(post, batch, now=now)

    def _examine(self, *, now: float) -> None:
        """Run the next request that may end its worker, on the one that is set apart for them."""
        post = self._examiner
        if post is None or post.is_leaving:
            self._examiner = None
            post = self._next_examiner()
        if post is None or post.batches:
            return
        if not self._suspects.waiting:
            self._examiner = None  # it goes on as all others
            return
        self._examiner = post
        if post in self._free:
            self._free.remove(post)
        self._run(post, [self._suspects.take()], now=now)

    def _next_examiner(self) -> _Post | None:
        """The worker that gets no more batches until it has none, and is then set apart.

        Rather one that is on its way than one that serves others; else the one with least to do.
        """
        if self._examiner is not None or not self._suspects.waiting:
            return None
        if self._awaits_worker() or any(post.is_lost for post in self._posts.values()):
            return None
        staying = (post for post in self._posts.values() if not post.is_leaving)
        return min(staying, key=lambda post: len(post.batches), default=None)

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_at = self._queue.due_at() if self._free_for_all() else None
        times = [at for at in (due_at, self._queue.expires_at()) if at is not None]
        if times:
            self._timer = self._loop.call_at(min(times), self._dispatch_later)

    def _run(self, post: _Post, batch: list[PendingRequest], *, now: float) -> None:
        self._num_running += len(batch)
        self._num_taken += len(batch)
        if batch[0].has_lost_a_worker:
            post.decode_s = 0.0  # what is decoded beside it might end this worker, too
        self._observer.batch_started(
            size=len(batch),
            queue_waits_s=[now - pending.arrived_at for pending in batch],
            versions_given=[pending.version_given for pending in batch],
        )
        call = post.worker.run(
            [pending.request for pending in batch],
            on_chunk=lambda chunk: _feed(batch[chunk.place], chunk.reply),
        )
        post.batches.append(call)
        if self._policy.concurrency > 1:
            for pending in batch:
                pending.running = call
        call.add_done_callback(lambda _: self._batch_over(post, batch, call, began_at=now))

    def _batch_over(
        self,
        post: _Post,
        batch: list[PendingRequest],
        call: asyncio.Future[BatchDone],
        *,
        began_at: float,
    ) -> None:
        """Give the worker another batch, then hand out the results of this one."""
        post.batches.remove(call)
        self._num_running -= len(batch)
        error = None if call.cancelled() else call.exception()
        post.is_leaving |= error is not None
        if post in self._free:
            self._free.remove(post)
        if not post.is_leaving and len(post.batches) < self._policy.concurrency:
            self._free.append(post)
        if call.cancelled():
            for pending in batch:
                self._over(pending, None)
            self._dispatch()
        elif error is None:
            self._answer(post, batch, call.result(), began_at=began_at)
        elif isinstance(error, WorkerError):
            was_running = self._policy.concurrency > 1 or not post.is_lost
            post.is_lost = True
            self._worker_lost(batch, error, was_running=was_running)
            self._dispatch()
        else:
            raise error
        self._note_drained()

    def _worker_lost(
        self, batch: list[PendingRequest], error: WorkerError, *, was_running: bool
    ) -> None:
        """Fail the requests of a lost worker, or let them run again.

        A batch that was sent ahead has not run yet, and is none of the reasons.
        """
        for pending in batch:
            pending.running = None
        now = self._loop.time()
        if was_running:
            failed = self._suspects.judge(batch, error, now=now, num_served=self._num_taken)
            for pending in failed:
                self._over(pending, None)
                self._fail(pending, type(error)(str(error)))  # callers raise them separately
        else:
            self._queue.put_back([each for each in batch if not each.is_over], now=now)
        if self._closed is not None:
            self.fail_waiting(self._closed)

    def _answer(
        self, post: _Post, batch: list[PendingRequest], done: BatchDone, *, began_at: float
    ) -> None:
        """Resolve each request with its own result; the worker has been asked for as many."""
        self._num_answered += 1
        now = self._loop.time()
        if self._policy.concurrency == 1:  # one that was sent ahead has waited for its turn
            began_at = max(began_at, post.idle_since)
            post.idle_since = now
        post.decode_s = done.decode_s
        seconds = max(done.handler_s, now - began_at)  # the front may hear of a turn late
        if all(pending.rest is None for pending in batch):  # a stream is as long as it likes
            self._queue.answered_batch(post.worker, size=len(batch), seconds=seconds)
        for pending, result in zip(batch, done.results, strict=True):
            self._over(pending, None if isinstance(result, Failure) else result)
        self._dispatch()  # the worker goes on while answers are written
        self._observer.batch_done(
            handler_s=done.handler_s,
            roundtrip_s=seconds,
            request_ids=(pending.request.request_id for pending in batch),
        )
        if done.metrics:
            self._observer.samples(done.metrics)
        for pending, result in zip(batch, done.results, strict=True):
            pending.running = None
            if isinstance(result, Failure):
                self._fail(pending, _error_of(result))
            elif pending.rest is not None:
                pending.rest.finish(result)
            else:
                pending.resolve(result)

    def _over(self, pending: PendingRequest, reply: Reply | None) -> None:
        if pending.sequence is not None:
            self._queue.answered(pending, reply, now=self._loop.time())

    def _fail(self, pending: PendingRequest, error: FlambeauError) -> None:
        if pending.rest is not None:
            pending.rest.fail(error)
        else:
            pending.resolve(error)

    def _note_drained(self) -> None:
        if self._drained is not None and not self.num_waiting and not self._num_running:
            self._drained.set_result(None)
            self._drained = None


def _feed(pending: PendingRequest, part: Reply) -> None:
    """Pass on one part of an answer; the first one is the reply."""
    if pending.rest is not None:
        pending.rest.feed(part)
    elif not pending.is_over:
        pending.rest = ReplyParts(on_closed=pending.abandon)
        pending.resolve(part)


def _error_of(failure: Failure) -> FlambeauError:
    if failure.kind is FailureKind.HANDLER_FAILED:
        return HandlerFailed(failure.message, status=failure.status)
    return _FAILURE_CLASSES[failure.kind](failure.message)
