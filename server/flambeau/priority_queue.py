"""Waiting requests of a model whose clients say how urgent they are.

`BatchQueue` decides when a batch leaves; here, what is in it. Each class below the first counts as
if it had come `HANDICAP_S` later, so urgent requests overtake others, and none waits for ever. In a
full queue a request displaces one that is less urgent, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from heapq import nsmallest
from typing import Final

from flambeau.batch_queue import BatchQueue
from flambeau.errors import BadParameter
from flambeau.pending import PendingRequest

HANDICAP_S: Final = 1.0  # what somebody who waits for an answer would call long


class Priority(Enum):
    """How urgent a request is, by how many times the handicap it has."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class PriorityQueue(BatchQueue[PendingRequest]):
    """Requests waiting for a worker, the most urgent first."""

    def __init__(
        self,
        *,
        header: str,
        max_size: int,
        max_batch_size: int,
        hold_s: float = 0.0,
        max_delay_s: float = 0.0,
        timeout_s: float = 0.0,
    ) -> None:
        """Start empty.

        Args:
            header: The header that says `high`, `normal` or `low`, in lower case; without it, a
                request is normal.
            max_size: How many may wait.
            max_batch_size: Most requests of one batch.
            hold_s: As `BatchQueue` has it, and so the other two.
            max_delay_s: Likewise.
            timeout_s: Likewise.
        """
        super().__init__(
            max_size=max_size,
            max_batch_size=max_batch_size,
            hold_s=hold_s,
            max_delay_s=max_delay_s,
            timeout_s=timeout_s,
        )
        # for the life of the queue
        self._header = header
        # those that wait: their class, in the order in which they came
        self._priorities: dict[PendingRequest, Priority] = {}
        # those that were put back
        self._again: set[PendingRequest] = set()
        # those that had to make room, until somebody tells them
        self._displaced: list[PendingRequest] = []

    def refusal(self, item: PendingRequest) -> str | None:
        """Why one more request may not be put; None when it may, or when another makes room.

        Raises:
            BadParameter: Its header says something else.
        """
        priority = self._priority_of(item)
        text = super().refusal(item)
        is_full = len(self) == self.max_size  # else more wait, as some were put back
        if text is None or (is_full and self._youngest_below(priority) is not None):
            return None
        return text

    def put(self, item: PendingRequest, *, now: float) -> None:
        """Append a request; ask `refusal` first."""
        priority = self._priority_of(item)
        if len(self) >= self.max_size:
            displaced = self._youngest_below(priority)
            assert displaced is not None, "put() without asking refusal()"
            self.discard(displaced)
            self._displaced.append(displaced)
        super().put(item, now=now)
        self._priorities[item] = priority

    def put_back(self, items: Sequence[PendingRequest], *, now: float) -> None:
        """Let requests be taken again, before all others; there is always room."""
        super().put_back(items, now=now)
        self._again.update(items)
        self._priorities.update({item: self._priority_of(item) for item in items})

    def discard(self, item: PendingRequest) -> bool:
        """Forget a request nobody waits for any more; False when it has left already."""
        self._forget(item)
        return super().discard(item)

    def take_displaced(self) -> list[PendingRequest]:
        """Requests that had to make room for more urgent ones."""
        displaced, self._displaced = self._displaced, []
        return displaced

    def _take(self, size: int) -> list[PendingRequest]:
        if size < len(self) and len(set(self._priorities.values())) > 1:
            chosen = nsmallest(size, self._arrived_at, key=self._turn)
            self._arrived_at = dict.fromkeys(chosen, 0.0) | self._arrived_at
        taken = super()._take(size)
        for item in taken:
            self._forget(item)
        return taken

    def _forget(self, item: PendingRequest) -> None:
        self._priorities.pop(item, None)
        self._again.discard(item)

    def _turn(self, item: PendingRequest) -> tuple[bool, float]:
        """What requests are taken by: those put back, then the others as if they had come late."""
        handicap_s = HANDICAP_S * self._priorities[item].value
        return item not in self._again, self._arrived_at[item] + handicap_s

    def _youngest_below(self, priority: Priority) -> PendingRequest | None:
        """Who has to make room: of the least urgent, the last to come, if less urgent than this."""
        least = max((each.value for each in self._priorities.values()), default=priority.value)
        if least <= priority.value:
            return None
        return next(
            item for item, each in reversed(self._priorities.items()) if each.value == least
        )

    def _priority_of(self, item: PendingRequest) -> Priority:
        for name, value in item.request.headers:
            if name == self._header:
                try:
                    return Priority[value.strip().upper()]
                except KeyError:
                    raise BadParameter(
                        f"{self._header} is {value!r}; use high, normal or low"
                    ) from None
        return Priority.NORMAL
