"""When waiting requests become a batch: pure bookkeeping, without clock or tasks.

`batcher.py` asks, waits and runs; this decides. Times are seconds of whichever monotonic clock the
caller uses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class BatchQueue(Generic[T]):
    """Items waiting for a worker, oldest first.

    With `hold_s` 0 the queue is work-conserving: whatever waits is due as soon as a worker is free,
    and batches grow by themselves while workers are busy. With `hold_s` above 0 a batch that is not
    full waits until its oldest item is that old (TorchServe's fixed window).
    """

    def __init__(self, *, max_size: int, max_batch_size: int, hold_s: float = 0.0) -> None:
        # for the life of the queue
        self.max_size = max_size
        self.max_batch_size = max_batch_size
        self.hold_s = hold_s
        # arrival time by item, oldest first
        self._arrived_at: OrderedDict[T, float] = OrderedDict()
        # those that may share no batch
        self._alone: set[T] = set()

    def __len__(self) -> int:
        return len(self._arrived_at)

    def refusal(self, item: T) -> str | None:  # noqa: ARG002  # all items are alike here
        """Why one more item may not be put; None when it may."""
        if len(self._arrived_at) < self.max_size:
            return None
        return (
            f"All are busy and {self.max_size} requests wait already (job_queue_size); retry "
            "later, add workers or raise job_queue_size."
        )

    def put(self, item: T, *, now: float) -> None:
        """Append an item; ask `refusal` first."""
        assert self.refusal(item) is None, "put() without asking refusal()"
        self._arrived_at[item] = now

    def put_back(self, items: Sequence[T], *, now: float) -> None:
        """Let items be taken again, before all others, each alone; there is always room."""
        for item in reversed(items):
            self._arrived_at[item] = now
            self._arrived_at.move_to_end(item, last=False)
            self._alone.add(item)

    def discard(self, item: T) -> bool:
        """Forget an item nobody waits for any more; False when it has left already."""
        self._alone.discard(item)
        return self._arrived_at.pop(item, None) is not None

    def due_at(self) -> float | None:
        """When the next batch may leave; None while nothing waits."""
        if not self._arrived_at:
            return None
        oldest, oldest_at = next(iter(self._arrived_at.items()))
        full = oldest in self._alone or len(self._arrived_at) >= self.max_batch_size
        return oldest_at if full else oldest_at + self.hold_s

    def take(self, *, now: float, worker: object = None) -> list[T]:  # noqa: ARG002  # any may
        """The next batch, oldest first; empty until it is due."""
        due_at = self.due_at()
        if due_at is None or due_at > now:
            return []
        if self._alone:
            return [self._take_alone()]
        size = min(len(self._arrived_at), self.max_batch_size)
        return [self._arrived_at.popitem(last=False)[0] for _ in range(size)]

    def take_all(self) -> list[T]:
        """Everything that waits, oldest first, due or not."""
        items = list(self._arrived_at)
        self._arrived_at.clear()
        self._alone.clear()
        return items

    # what only queues with sequences know

    def take_expired(self, *, now: float) -> list[T]:  # noqa: ARG002  # as above
        return []

    def expires_at(self) -> float | None:
        return None

    def answered(self, item: T, reply: object, *, now: float) -> None:
        pass

    def end(self, sequence_id: str) -> None:
        """Nothing: requests here are on their own."""

    def worker_gone(self, worker: object) -> None:
        pass

    def _take_alone(self) -> T:
        """The oldest item; those put back are the oldest, as long as there are any."""
        item, _ = self._arrived_at.popitem(last=False)
        self._alone.discard(item)
        return item
