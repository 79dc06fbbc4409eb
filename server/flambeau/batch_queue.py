"""When waiting requests become a batch: pure bookkeeping, without clock or tasks.

`batcher.py` asks, waits and runs; this decides. Times are seconds of whichever monotonic clock the
caller uses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
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

    def __len__(self) -> int:
        return len(self._arrived_at)

    def has_room(self) -> bool:
        """Whether one more item may be put."""
        return len(self._arrived_at) < self.max_size

    def put(self, item: T, *, now: float) -> None:
        """Append an item; ask `has_room` first."""
        assert self.has_room(), "put() without has_room()"
        self._arrived_at[item] = now

    def discard(self, item: T) -> bool:
        """Forget an item nobody waits for any more; False when it has left already."""
        return self._arrived_at.pop(item, None) is not None

    def due_at(self) -> float | None:
        """When the next batch may leave; None while nothing waits."""
        if not self._arrived_at:
            return None
        oldest_at = next(iter(self._arrived_at.values()))
        full = len(self._arrived_at) >= self.max_batch_size
        return oldest_at if full else oldest_at + self.hold_s

    def take(self, *, now: float) -> list[T]:
        """The next batch, oldest first; empty until it is due."""
        due_at = self.due_at()
        if due_at is None or due_at > now:
            return []
        size = min(len(self._arrived_at), self.max_batch_size)
        return [self._arrived_at.popitem(last=False)[0] for _ in range(size)]

    def take_all(self) -> list[T]:
        """Everything that waits, oldest first, due or not."""
        items = list(self._arrived_at)
        self._arrived_at.clear()
        return items
