"""A request on its way through the front, and the place its answer goes to."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from flambeau.errors import FlambeauError
from flambeau.messages import BatchDone, InferenceRequest, Reply
from flambeau.reply_parts import ReplyParts


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceTag:
    """A request's place in a sequence of requests that share state in their worker.

    Attributes:
        id: The sequence.
        starts: Whether it is the first of it.
        ends: Whether it is the last.
    """

    id: str
    starts: bool
    ends: bool


def in_sequence(
    request: InferenceRequest, names: tuple[str, str, str]
) -> tuple[InferenceRequest, SequenceTag]:
    """A request's place in its sequence, as its headers tell; without an id it begins a new one.

    Args:
        request: Its headers are searched without regard to case.
        names: Of the headers with a sequence's id, start and end.

    Returns:
        The request, with the headers of a new sequence where it begins one, and its place.
    """
    id_name, start_name, end_name = names
    headers = {name.lower(): value for name, value in request.headers}
    found = headers.get(id_name.lower(), "")
    starts = headers.get(start_name.lower(), "").lower() == "true"
    ends = headers.get(end_name.lower(), "").lower() == "true"
    if found:
        return request, SequenceTag(id=found, starts=starts, ends=ends)
    new = f"ts-seq-{uuid.uuid4()}"
    added = [*request.headers, (id_name, new), (start_name, "true")]
    return msgspec.structs.replace(request, headers=added), SequenceTag(
        id=new, starts=True, ends=ends
    )


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request and the place its answer goes to.

    Whoever made it either awaits `reply` or is told by `on_result`; both cost nothing unused.

    Attributes:
        request: What the worker will see.
        arrived_at: Loop time of submission.
        withdraw: Takes it back; the batcher's own.
        on_result: Called once, when the result is there.
        sequence: The sequence it belongs to, or None.
        version_given: Whether the client asked for this version, not for the default.
        result: The answer, or its first part, or one of our errors; None until it is there.
        rest: The parts of the answer after the first; None when `result` is all of it.
        is_abandoned: Whether nobody waits for the answer any more.
        has_lost_a_worker: Whether a worker ended while it had this request; the batcher's own.
        running: What runs it, where that can be cancelled for it alone; the batcher's own.
        deadline: Ends its waiting; the batcher's own.
    """

    request: InferenceRequest
    arrived_at: float
    withdraw: Callable[[PendingRequest], None]
    on_result: Callable[[PendingRequest], None] | None = None
    sequence: SequenceTag | None = None
    version_given: bool = True
    result: Reply | FlambeauError | None = None
    rest: ReplyParts | None = None
    is_abandoned: bool = False
    has_lost_a_worker: bool = False
    running: asyncio.Future[BatchDone] | None = field(default=None, repr=False)
    deadline: asyncio.TimerHandle | None = field(default=None, repr=False)
    _reply: asyncio.Future[Reply] | None = field(default=None, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether there is a result, or nobody to take one."""
        return self.result is not None or self.is_abandoned

    @property
    def reply(self) -> asyncio.Future[Reply]:
        """The result, to be awaited: it raises our errors, and cancelling it withdraws the request.

        Each caller gets the same future; needs a running event loop.
        """
        if self._reply is None:
            self._reply = asyncio.get_running_loop().create_future()
            self._reply.add_done_callback(self._note_cancelled)
            self._settle(self._reply)
        return self._reply

    def resolve(self, result: Reply | FlambeauError) -> None:
        """Deliver the result; nothing happens when it is over."""
        if self.is_over:
            return
        self.result = result
        self._stop_clock()
        if self._reply is not None:
            self._settle(self._reply)
        on_result, self.on_result = self.on_result, None  # else it and its owner hold each other
        if on_result is not None:
            on_result(self)

    def abandon(self) -> None:
        """Nobody waits for the answer any more: forget it, and end its work where that is known."""
        if not self.is_over:
            self.is_abandoned = True
            self.on_result = None
            self._stop_clock()
            if self._reply is not None:
                self._settle(self._reply)
            self.withdraw(self)
        if self.running is not None:
            self.running.cancel()

    def _settle(self, reply: asyncio.Future[Reply]) -> None:
        if reply.done():
            return
        if self.is_abandoned:
            reply.cancel()
        elif isinstance(self.result, Reply):
            reply.set_result(self.result)
        elif self.result is not None:
            reply.set_exception(self.result)

    def _note_cancelled(self, reply: asyncio.Future[Reply]) -> None:
        if reply.cancelled():
            self.abandon()

    def _stop_clock(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
