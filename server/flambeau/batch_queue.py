"""When waiting requests become a batch: bookkeeping without clock or tasks.

`batcher.py` asks, waits and runs; this remembers, and `batch_rules.py` weighs. Times are seconds of
whichever monotonic clock the caller uses.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from flambeau import batch_rules
from flambeau.batch_company import Company
from flambeau.batch_cost import BatchCost
from flambeau.batch_rules import Hold

T = TypeVar("T", bound=Hashable)

_TICK_S = 0.0005  # timers may be early by half of their millisecond
_CAUTION = 1.2  # times what is expected that a batch may well take
_DECODE_S = 0.003  # of decoding that a worker does in another thread; see decode_ahead.WORTH_S
_AHEAD_S = 0.005  # that a front under load may need to notice that a worker is free


class BatchQueue(Generic[T]):
    """Items waiting for a worker, oldest first.

    The queue is work-conserving: whatever waits is due as soon as a worker is free, and batches
    grow by themselves while workers are busy. With `max_delay_s` the last idle worker may wait for
    company where that is known to pay, until its oldest item is that old. With `hold_s` a batch
    that is not full waits until its oldest item is that old, known to pay or not (TorchServe's
    fixed window).

    With `timeout_s`, items that cannot be answered in that time are told apart: before they are put
    (`is_too_late`), and before they are taken (`take_late`). A model that needs longer for one
    alone is none of the queue's business: its items are taken, else it could not notice that it
    became faster.
    """

    def __init__(
        self,
        *,
        max_size: int,
        max_batch_size: int,
        hold_s: float = 0.0,
        max_delay_s: float = 0.0,
        timeout_s: float = 0.0,
    ) -> None:
        # for the life of the queue
        self.max_size = max_size
        self.max_batch_size = max_batch_size
        self.hold_s = hold_s
        self.max_delay_s = max_delay_s if max_batch_size > 1 and not hold_s else 0.0
        self.timeout_s = timeout_s
        self._cost = BatchCost(max_batch_size=max_batch_size)
        self._company = Company(max_batch_size=max_batch_size)
        # arrival time by item, oldest first
        self._arrived_at: dict[T, float] = {}
        # what the last idle worker waits for
        self._hold: Hold | None = None
        # when each busy worker is free again, at the earliest
        self._free_at: dict[object, float] = {}
        # what one item alone costs at least, whether that can be had in time, and the longest batch
        self._alone_s = 0.0
        self._knows_time = False
        self._longest_s = 0.0

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

    def is_too_late(self, *, now: float, num_workers: int) -> bool:
        """Whether one more item would miss its time because of those ahead, at their fastest."""
        if not num_workers or not self._knows_time:
            return False
        wait_s = 0.0
        if len(self._free_at) >= num_workers:
            wait_s = max(0.0, min(self._free_at.values()) - now)
        rounds = len(self._arrived_at) // self.max_batch_size // num_workers
        if rounds:
            wait_s += rounds * self._cost.at_least_s(self._largest_batch(self.max_batch_size))
        return wait_s + self._alone_s > self.timeout_s

    def drained_in_s(self, *, num_workers: int) -> float:
        """Seconds until all that waits has been taken, as far as costs are known."""
        rounds = len(self._arrived_at) / self.max_batch_size / max(1, num_workers)
        return rounds * self._cost.expected_s(self.max_batch_size)

    def put(self, item: T, *, now: float) -> None:
        """Append an item; ask `refusal` first."""
        assert len(self._arrived_at) < self.max_size, "put() without asking refusal()"
        self._arrived_at[item] = now
        if now < self._company.watched_until:
            self._company.came(now)

    def put_back(self, items: Sequence[T], *, now: float) -> None:
        """Let items be taken again, before all others; there is always room."""
        self._arrived_at = dict.fromkeys(items, now) | self._arrived_at

    def discard(self, item: T) -> bool:
        """Forget an item nobody waits for any more; False when it has left already."""
        gone = self._arrived_at.pop(item, None) is not None
        if not self._arrived_at:
            self._hold = None
        return gone

    def due_at(self) -> float | None:
        """When the next batch may leave; None while nothing waits."""
        if not self._arrived_at:
            return None
        if len(self._arrived_at) >= self.max_batch_size:
            return self._oldest_at()
        if self._hold is not None:
            return self._hold.until
        return self._oldest_at() + self.hold_s

    def take(self, *, now: float, worker: object = None, num_free: int = 1) -> list[T]:
        """The next batch, oldest first; empty until it is due.

        Args:
            now: The time.
            worker: Who asks.
            num_free: How many workers could take a batch, including this one.
        """
        size = num_waiting = len(self._arrived_at)
        if not num_waiting:
            return []
        if num_waiting < self.max_batch_size and self._waits(now=now, num_free=num_free):
            return []
        if num_free > 1 or num_waiting > self.max_batch_size or self.timeout_s:
            size = batch_rules.share(
                num_waiting, num_free=num_free, max_batch_size=self.max_batch_size, cost=self._cost
            )
            if self.timeout_s:
                size = self._largest_batch(size)
        if self.timeout_s:
            self._free_at[worker] = now + self._cost.at_least_s(size)
        return self._take(size)

    def take_ahead(self, *, decode_s: float = 0.0) -> list[T]:
        """A full batch for the only worker, which has one still; empty where it had better wait.

        A worker with a batch of milliseconds is free again before the front has heard of it. While
        it has a longer one, items may still leave, unless it decodes them meanwhile.

        Args:
            decode_s: What the worker lately needed to decode a batch; 0 if it does not do so ahead.
        """
        size = self.max_batch_size
        if len(self._arrived_at) < size or self.timeout_s:
            return []
        if not self._cost.knows(size):
            return []
        if self._cost.expected_s(size) > _AHEAD_S and decode_s < _DECODE_S:
            return []
        return self._take(size)

    def take_late(self, *, now: float) -> list[T]:
        """Items whose time has passed, or will have before the batch they would be in is over."""
        late: list[T] = []
        if not self._knows_time:
            return late
        num_left = len(self._arrived_at)
        for item, arrived_at in self._arrived_at.items():
            if num_left > 1:
                size = self._largest_batch(min(num_left, self.max_batch_size))
                cost_s = _CAUTION * self._cost.seen_s(size)
            else:
                cost_s = self._alone_s
            if arrived_at + self.timeout_s >= now + cost_s:
                break
            late.append(item)
            num_left -= 1
        for item in late:
            self.discard(item)
        return late

    def take_all(self) -> list[T]:
        """Everything that waits, oldest first, due or not."""
        return self._take(len(self._arrived_at))

    def answered_batch(self, worker: object, *, size: int, seconds: float) -> None:
        """A batch is over, `seconds` after its worker began it."""
        self._cost.observe(size, seconds)
        if self.timeout_s:
            self._free_at.pop(worker, None)
            self._alone_s = self._cost.at_least_s(1)
            self._knows_time = self._alone_s <= self.timeout_s
            self._longest_s = max(self.timeout_s / 2, _CAUTION * self._cost.seen_s(1))

    def worker_gone(self, worker: object) -> None:
        """A worker will take nothing any more."""
        self._free_at.pop(worker, None)

    # what only other queues know

    def take_displaced(self) -> Sequence[T]:
        return ()

    def take_expired(self, *, now: float) -> list[T]:  # noqa: ARG002  # as above
        return []

    def expires_at(self) -> float | None:
        return None

    def answered(self, item: T, reply: object, *, now: float) -> None:
        pass

    def end(self, sequence_id: str) -> None:
        """Nothing: requests here are on their own."""

    def _waits(self, *, now: float, num_free: int) -> bool:
        """Whether a batch that is not full stays."""
        if self.hold_s:
            return now < self._oldest_at() + self.hold_s
        if not self.max_delay_s:
            return False
        if num_free > 1:  # whoever comes next has a worker
            self._hold = None
            return False
        if self._hold is None:
            self._hold = self._new_hold(now=now)
        hold = self._hold
        return hold is not None and now < hold.until - _TICK_S and len(self._arrived_at) < hold.size

    def _new_hold(self, *, now: float) -> Hold | None:
        num_waiting = len(self._arrived_at)
        cost_s = self._cost.expected_s(num_waiting)
        if not batch_rules.may_pay(cost_s):
            return None
        self._company.watch(num_waiting, now=now, until=now + min(cost_s, self.max_delay_s))
        wait_s = self.max_delay_s
        if self.timeout_s:
            wait_s = min(wait_s, self.timeout_s - self._cost.expected_s(self.max_batch_size))
        return batch_rules.best_hold(
            num_waiting,
            now=now,
            leave_by=self._oldest_at() + wait_s,
            max_batch_size=self.max_batch_size,
            cost=self._cost,
            company=self._company,
        )

    def _largest_batch(self, size: int) -> int:
        """`size`, or as many as take half the time there is: who comes meanwhile waits for them.

        More where a smaller batch would hardly be faster.
        """
        while size > 1 and self._cost.seen_s(size) > self._longest_s:
            size -= 1
        return size

    def _oldest_at(self) -> float:
        return next(iter(self._arrived_at.values()))

    def _take(self, size: int) -> list[T]:
        self._hold = None
        if size == len(self._arrived_at):
            items = list(self._arrived_at)
            self._arrived_at.clear()
        else:
            items = list(islice(self._arrived_at, size))
            for item in items:
                del self._arrived_at[item]
        return items
