"""A request on its way through the front, and the place its answer goes to."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field

import msgspec

from flambeau.messages import InferenceRequest, Reply
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

    Attributes:
        request: What the worker will see.
        reply: Resolved with the answer, or its first part, or one of our errors. Cancelling it
            withdraws the request.
        arrived_at: Loop time of submission.
        sequence: The sequence it belongs to, or None.
        version_given: Whether the client asked for this version, not for the default.
        rest: The parts of the answer after the first; None when `reply` is all of it.
        has_lost_a_worker: Whether a worker ended while it had this request; the batcher's own.
        running: What runs it, where that can be cancelled for it alone; the batcher's own.
        deadline: Ends its waiting; the batcher's own.
    """

    request: InferenceRequest
    reply: asyncio.Future[Reply]
    arrived_at: float
    sequence: SequenceTag | None = None
    version_given: bool = True
    rest: ReplyParts | None = None
    has_lost_a_worker: bool = False
    running: asyncio.Task[None] | None = field(default=None, repr=False)
    deadline: asyncio.TimerHandle | None = field(default=None, repr=False)

    def abandon(self) -> None:
        """Nobody waits for the answer any more: forget it, and end its work where that is known."""
        self.reply.cancel()
        if self.running is not None:
            self.running.cancel()
