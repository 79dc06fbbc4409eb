"""How a worker takes its batches: in turn, as one continuous batch, or concurrently.

In the last two modes every batch is one request. The front keeps as many of them running as the
model's batch size, and may cancel each.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flambeau.decode_ahead import WORTH_S
from flambeau.errors import HandlerFailed
from flambeau.failure_text import print_traceback
from flambeau.instance import STREAM_NEXT, Part, encode_failure
from flambeau.messages import (
    BatchMode,
    CancelBatch,
    Chunk,
    Failure,
    FailureKind,
    Reply,
    RunBatch,
)

if TYPE_CHECKING:
    from flambeau.codec import Row
    from flambeau.decode_ahead import Coming, DecodeAhead
    from flambeau.instance import ModelInstance
    from flambeau.messages import ToFront, ToWorker

_CANCELLED = Failure(FailureKind.HANDLER_FAILED, "cancelled")  # nobody reads it


class Channel(Protocol):
    """The worker's end of its connection with the front."""

    def receive(self) -> ToWorker | None:
        """The next message, however long it takes; None when the front has hung up."""
        ...

    def has_more(self) -> bool:
        """Whether `receive` would return soon."""
        ...

    def send(self, message: ToFront) -> None:
        """Send a message, from any thread."""
        ...


def serve_batches(channel: Channel, instance: ModelInstance, *, mode: BatchMode) -> None:
    """Answer batches until the front hangs up."""
    gc.freeze()  # what is loaded stays: full collections among requests need not look at it
    match mode:
        case BatchMode.IN_TURN:
            _serve_in_turn(channel, instance)
        case BatchMode.CONTINUOUS:
            ContinuousBatch(channel, instance).serve()
        case BatchMode.CONCURRENT:
            asyncio.run(ConcurrentCalls(channel, instance).serve())


def _serve_in_turn(channel: Channel, instance: ModelInstance) -> None:
    ahead = instance.decode_ahead()
    if ahead is not None:
        _serve_decoding_ahead(channel, instance, ahead)
        return
    while (batch := channel.receive()) is not None:
        assert isinstance(batch, RunBatch)
        channel.send(instance.run(batch, send=channel.send))


def _serve_decoding_ahead(channel: Channel, instance: ModelInstance, ahead: DecodeAhead) -> None:
    """The same with a second thread for the next batch, as long as decoding takes long enough."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode-ahead") as thread:
        coming: Future[Coming] | None = None
        while True:
            if coming is not None:
                batch, prepared = (found := coming.result()).batch, found.prepared
            else:
                message = channel.receive()
                assert message is None or isinstance(message, RunBatch)
                batch, prepared = message, None
            if batch is None:
                return
            is_worth_it = instance.decoding_s >= WORTH_S
            coming = thread.submit(ahead.receive, channel) if is_worth_it else None
            channel.send(instance.run(batch, prepared=prepared, send=channel.send))


@dataclass(kw_only=True, slots=True)
class _Running:
    """One request of a continuous batch.

    Attributes:
        batch: The message that brought it.
        began_at: Its first step, on the performance counter.
        row: What the handler gets next; empty after the first step, as in TorchServe.
    """

    batch: RunBatch
    began_at: float
    row: Row


class ContinuousBatch:
    """Requests that join and leave one running batch, between two handler calls."""

    def __init__(self, channel: Channel, instance: ModelInstance) -> None:
        self._channel = channel
        self._instance = instance
        # by batch id, oldest first
        self._running: dict[int, _Running] = {}

    def serve(self) -> None:
        """Step until the front hangs up."""
        while self._take_in():
            self._step()

    def _take_in(self) -> bool:
        """Take what has come, waiting only when nothing runs; False at the end."""
        while not self._running or self._channel.has_more():
            match self._channel.receive():
                case None:
                    return False
                case RunBatch() as batch:
                    self._begin(batch)
                case CancelBatch(batch_id=batch_id) if batch_id in self._running:
                    self._end(batch_id, _CANCELLED)
                case _:
                    pass
        return True

    def _begin(self, batch: RunBatch) -> None:
        (request,) = batch.requests
        self._running[batch.batch_id] = _Running(
            batch=batch, began_at=time.perf_counter(), row=self._instance.decode(request)
        )

    def _step(self) -> None:
        running = list(self._running.values())
        part = Part(
            batch_id=0,
            places=list(range(len(running))),
            requests=[one.batch.requests[0] for one in running],
        )
        try:
            results = self._instance.call_running(part, [one.row for one in running])
        except BaseException as error:  # noqa: BLE001  # not even SystemExit ends the worker
            print_traceback()
            results = [encode_failure(error)] * len(running)
        for one, result in zip(running, results, strict=True):
            one.row = {}
            if isinstance(result, Reply) and (STREAM_NEXT, "true") in result.headers:
                self._channel.send(Chunk(batch_id=one.batch.batch_id, place=0, reply=result))
            else:
                self._end(one.batch.batch_id, result)

    def _end(self, batch_id: int, result: Reply | Failure) -> None:
        one = self._running.pop(batch_id)
        self._channel.send(self._instance.done(one.batch, [result], began_at=one.began_at))


class ConcurrentCalls:
    """Calls of a handler that is a coroutine, each in a task of its own."""

    def __init__(self, channel: Channel, instance: ModelInstance) -> None:
        self._channel = channel
        self._instance = instance
        self._calls: dict[int, asyncio.Task[list[Reply | Failure]]] = {}
        self._ended = asyncio.Event()

    async def serve(self) -> None:
        """Run calls until the front hangs up."""
        loop = asyncio.get_running_loop()
        reader = threading.Thread(target=self._read, args=(loop,), daemon=True)
        reader.start()
        await self._ended.wait()
        for call in self._calls.values():
            call.cancel()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        while (message := self._channel.receive()) is not None:
            loop.call_soon_threadsafe(self._received, message)
        loop.call_soon_threadsafe(self._ended.set)

    def _received(self, message: object) -> None:
        match message:
            case RunBatch() as batch:
                self._begin(batch)
            case CancelBatch(batch_id=batch_id) if batch_id in self._calls:
                self._calls[batch_id].cancel()
            case _:
                pass

    def _begin(self, batch: RunBatch) -> None:
        began_at = time.perf_counter()
        part = Part.of(batch, [0])

        def end(call: asyncio.Task[list[Reply | Failure]]) -> None:
            del self._calls[batch.batch_id]
            results = _results_of(call)
            self._channel.send(self._instance.done(batch, results, began_at=began_at))

        call = asyncio.ensure_future(self._call(part))
        self._calls[batch.batch_id] = call
        call.add_done_callback(end)

    async def _call(self, part: Part) -> list[Reply | Failure]:
        try:
            return await self._instance.call_concurrently(part, self._channel.send)
        except (SystemExit, KeyboardInterrupt) as error:  # these would end the event loop
            raise HandlerFailed("Prediction failed") from error


def _results_of(call: asyncio.Task[list[Reply | Failure]]) -> list[Reply | Failure]:
    try:
        return call.result()
    except asyncio.CancelledError:
        return [_CANCELLED]
    except BaseException as error:  # noqa: BLE001  # whatever the handler raises
        print_traceback()
        return [encode_failure(error)]
