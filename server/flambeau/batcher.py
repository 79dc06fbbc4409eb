"""Driving one version's queue: idle workers take batches, replies go back to their requests.

Everything here runs on the front's event loop, so each method is one uninterrupted step. The
decision when a batch leaves is `BatchQueue`'s; which workers exist is `ModelVersion`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flambeau.batch_queue import BatchQueue
from flambeau.errors import (
    FlambeauError,
    HandlerFailed,
    InvalidInput,
    NoWorker,
    OutOfResources,
    QueueFull,
    UnsupportedContentType,
    WorkerError,
)
from flambeau.messages import BatchDone, Failure, FailureKind, InferenceRequest, Reply

_FAILURE_CLASSES: dict[FailureKind, type[FlambeauError]] = {
    FailureKind.INVALID_INPUT: InvalidInput,
    FailureKind.UNSUPPORTED_CONTENT_TYPE: UnsupportedContentType,
    FailureKind.HANDLER_FAILED: HandlerFailed,
    FailureKind.OUT_OF_RESOURCES: OutOfResources,
}


class Worker(Protocol):
    """What the batcher needs of a worker: `WorkerProcess`, or `FakeWorker` in tests."""

    async def run(self, requests: Sequence[InferenceRequest]) -> BatchDone:
        """Answer a batch, one result per request; WorkerError when the worker is lost."""
        ...


class BatchObserver(Protocol):
    """Told about every batch; `metrics.py` counts."""

    def batch_started(self, *, size: int, queue_waits_s: Sequence[float]) -> None: ...

    def batch_done(self, *, handler_s: float) -> None: ...


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request and the place its answer goes to.

    Attributes:
        request: What the worker will see.
        reply: Resolved with the answer or one of our errors. Cancelling it withdraws the request.
        arrived_at: Loop time of submission.
    """

    request: InferenceRequest
    reply: asyncio.Future[Reply]
    arrived_at: float


class Batcher:
    """Owner of a version's waiting and running requests."""

    def __init__(
        self,
        queue: BatchQueue[PendingRequest],
        *,
        label: str,
        observer: BatchObserver,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # for the life of the version
        self._queue = queue
        self._label = label
        self._observer = observer
        self._loop = loop
        # workers that answered their last batch, least recently used first
        self._idle: list[Worker] = []
        # the batch each busy worker has, and whether the worker comes back afterwards
        self._busy: dict[Worker, asyncio.Task[None]] = {}
        self._num_running = 0
        self._leaving: set[Worker] = set()
        # a dispatch that is due: at the end of this loop step, or when the window closes
        self._dispatch_soon: asyncio.Handle | None = None
        self._window: asyncio.TimerHandle | None = None
        # resolved when nothing waits and nothing runs; None while nobody asks
        self._drained: asyncio.Future[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Requests that no worker has yet."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Requests that workers are answering."""
        return self._num_running

    @property
    def room(self) -> int:
        """How many more requests may wait."""
        return self._queue.max_size - len(self._queue)

    def submit(self, request: InferenceRequest) -> PendingRequest:
        """Queue one request; its `reply` is resolved when a worker has answered.

        Raises:
            QueueFull: `max_size` requests wait already.
        """
        if not self._queue.has_room():
            raise QueueFull(
                f"{self._label} has no worker to serve inference request. All are busy and "
                f"{self._queue.max_size} requests wait already (job_queue_size); retry later, "
                "add workers or raise job_queue_size."
            )
        now = self._loop.time()
        pending = PendingRequest(request, self._loop.create_future(), now)
        pending.reply.add_done_callback(lambda _: self._withdraw(pending))
        self._queue.put(pending, now=now)
        self._dispatch_later()
        return pending

    def add(self, worker: Worker) -> None:
        """Let a ready worker take batches."""
        self._idle.append(worker)
        self._dispatch_later()

    def is_busy(self, worker: Worker) -> bool:
        """Whether the worker has a batch at the moment."""
        return worker in self._busy

    async def release(self, worker: Worker) -> None:
        """Take a worker out; returns once it has answered the batch it has, if any."""
        if worker in self._idle:
            self._idle.remove(worker)
        task = self._busy.get(worker)
        if task is not None:
            self._leaving.add(worker)
            await asyncio.wait({task})

    def fail_waiting(self, error_text: str) -> None:
        """Answer everything that waits with NoWorker: no worker will come."""
        for pending in self._queue.take_all():
            _fail(pending, NoWorker(error_text))
        self._note_drained()

    async def wait_drained(self) -> None:
        """Wait until nothing waits and nothing runs."""
        while self._queue or self._busy:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _withdraw(self, pending: PendingRequest) -> None:
        """The reply is there, or its caller went away: a request still waiting leaves the queue."""
        if self._queue.discard(pending):
            self._note_drained()

    def _note_drained(self) -> None:
        if self._drained is not None and not self._queue and not self._busy:
            self._drained.set_result(None)
            self._drained = None

    def _dispatch_later(self) -> None:
        """Dispatch once per loop step, so that requests read in one step share a batch."""
        if self._dispatch_soon is None:
            self._dispatch_soon = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_soon = None
        now = self._loop.time()
        while self._idle and (batch := self._queue.take(now=now)):
            worker = self._idle.pop()  # the most recently used has the warmest caches
            self._num_running += len(batch)
            self._busy[worker] = self._loop.create_task(self._run(worker, batch, now=now))
        self._arm_window()

    def _arm_window(self) -> None:
        if self._window is not None:
            self._window.cancel()
            self._window = None
        due_at = self._queue.due_at()
        if self._idle and due_at is not None:
            self._window = self._loop.call_at(due_at, self._dispatch_later)

    async def _run(self, worker: Worker, batch: list[PendingRequest], *, now: float) -> None:
        self._observer.batch_started(
            size=len(batch), queue_waits_s=[now - pending.arrived_at for pending in batch]
        )
        alive = False
        try:
            done = await worker.run([pending.request for pending in batch])
            self._observer.batch_done(handler_s=done.handler_s)
            _answer(batch, done)
            alive = True
        except WorkerError as error:
            for pending in batch:  # one error object each: callers raise them separately
                _fail(pending, type(error)(str(error)))
        finally:
            self._num_running -= len(batch)
            self._finished(worker, alive=alive)

    def _finished(self, worker: Worker, *, alive: bool) -> None:
        del self._busy[worker]
        if alive and worker not in self._leaving:
            self._idle.append(worker)
        self._leaving.discard(worker)
        self._dispatch_later()
        self._note_drained()


def _answer(batch: list[PendingRequest], done: BatchDone) -> None:
    """Resolve each request with its own result; `WorkerProcess.run` has checked the count."""
    for pending, result in zip(batch, done.results, strict=True):
        if isinstance(result, Failure):
            _fail(pending, _FAILURE_CLASSES[result.kind](result.message))
        elif not pending.reply.done():
            pending.reply.set_result(result)


def _fail(pending: PendingRequest, error: FlambeauError) -> None:
    if not pending.reply.done():
        pending.reply.set_exception(error)
