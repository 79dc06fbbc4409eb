"""What the batcher needs of a queue: `BatchQueue`, or `SequenceQueue` for models with state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flambeau.messages import Reply
from flambeau.pending import PendingRequest


class RequestQueue(Protocol):
    """Requests waiting for a worker; times are the event loop's."""

    @property
    def max_size(self) -> int:
        """How many may wait."""
        ...

    def __len__(self) -> int: ...

    def refusal(self, pending: PendingRequest, /) -> str | None:
        """Why a request cannot wait here; None when it can."""
        ...

    def is_too_late(self, *, now: float, num_workers: int) -> bool:
        """Whether one more request would miss its deadline because of those ahead of it."""
        ...

    def drained_in_s(self, *, num_workers: int) -> float:
        """Seconds until all that waits has been taken, as far as is known; 0 where nothing is."""
        ...

    def put(self, pending: PendingRequest, /, *, now: float) -> None:
        """Append a request; ask `refusal` first."""
        ...

    def put_back(self, items: Sequence[PendingRequest], /, *, now: float) -> None:
        """Let requests be taken again, before all others."""
        ...

    def discard(self, pending: PendingRequest, /) -> bool:
        """Forget a request nobody waits for any more; False when it has left already."""
        ...

    def due_at(self) -> float | None:
        """When `take` should be called next if nothing else happens; None for never."""
        ...

    def take(self, *, now: float, worker: object, num_free: int) -> list[PendingRequest]:
        """The next batch for this one of `num_free` workers; empty when there is none now."""
        ...

    def take_ahead(self, *, decode_s: float = 0.0) -> list[PendingRequest]:
        """A batch that a busy worker may have already, for nothing can change it; often empty."""
        ...

    def take_late(self, *, now: float) -> list[PendingRequest]:
        """Requests that the next batch would answer too late; ask before `take`."""
        ...

    def take_all(self) -> list[PendingRequest]:
        """Everything that waits."""
        ...

    def take_displaced(self) -> Sequence[PendingRequest]:
        """Requests that had to make room for more urgent ones."""
        ...

    def take_expired(self, *, now: float) -> list[PendingRequest]:
        """Requests that will never be taken, as what they belong to has ended."""
        ...

    def expires_at(self) -> float | None:
        """When `take_expired` should be called next; None for never."""
        ...

    def answered(self, pending: PendingRequest, reply: Reply | None, /, *, now: float) -> None:
        """A request that was taken is over; with a reply unless it failed."""
        ...

    def answered_batch(self, worker: object, /, *, size: int, seconds: float) -> None:
        """A batch that was taken is answered, so many seconds later."""
        ...

    def end(self, sequence_id: str) -> None:
        """No more requests of a sequence will come."""
        ...

    def worker_gone(self, worker: object, /) -> None:
        """A worker will take nothing any more."""
        ...
