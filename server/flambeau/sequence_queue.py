"""Waiting requests of a model that keeps state between the requests of one sequence.

All requests of a sequence go to the worker that got the first, in order, one at a time; a batch has
one request from each of several sequences. Pure bookkeeping, as `batch_queue.py`: times are seconds
of the caller's monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from flambeau.messages import Reply
from flambeau.pending import PendingRequest, SequenceTag


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceLimits:
    """How many sequences there may be, and for how long.

    Attributes:
        max_sequences: Open at a time, 1 or more.
        max_waiting: Requests of one sequence that may wait, 1 or more.
        max_idle_s: Seconds without a request after which a sequence ends; 0 for never.
        max_age_s: Seconds after which any sequence ends; 0 for never.
        end_header: The response header with which a handler ends sequences, ids separated by `;`.
    """

    max_sequences: int = 1
    max_waiting: int = 1
    max_idle_s: float = 0.0
    max_age_s: float = 0.0
    end_header: str = "ts_request_sequence_end"


@dataclass(eq=False, slots=True)
class _Open:
    """A sequence that takes requests."""

    id: str
    began_at: float
    used_at: float
    worker: object | None = None
    waiting: deque[PendingRequest] = field(default_factory=deque)
    running: PendingRequest | None = None
    has_ended: bool = False  # its last request is here; it closes once that is answered


class SequenceQueue:
    """Sequences with their waiting requests, oldest sequence first."""

    def __init__(self, limits: SequenceLimits, *, max_batch_size: int, num_seats: int) -> None:
        """Start without sequences.

        Args:
            limits: How many there may be.
            max_batch_size: Most requests of one batch.
            num_seats: Most sequences that one worker has at a time.
        """
        # for the life of the queue
        self.max_size = limits.max_sequences * limits.max_waiting
        self._limits = limits
        self._max_batch_size = max_batch_size
        self._num_seats = num_seats
        self._open: dict[str, _Open] = {}
        # requests of sequences that closed before their turn
        self._orphans: list[PendingRequest] = []

    def __len__(self) -> int:
        return sum(len(each.waiting) for each in self._open.values()) + len(self._orphans)

    def refusal(self, pending: PendingRequest) -> str | None:
        """Why a request cannot wait: its sequence is not open, or has enough requests waiting."""
        tag = _tag(pending)
        found = self._open.get(tag.id)
        if found is None and not tag.starts:
            return (
                f"Sequence {tag.id!r} is closed, expired or was never begun; begin one with the "
                "sequence start header."
            )
        if found is None and len(self._open) >= self._limits.max_sequences:
            return (
                f"{self._limits.max_sequences} sequences are open already (maxNumSequence); end "
                "one, or retry later."
            )
        if found is not None and found.has_ended:
            return f"Sequence {tag.id!r} has got its last request already; begin another."
        if found is not None and len(found.waiting) >= self._limits.max_waiting:
            return (
                f"Sequence {tag.id!r} has {len(found.waiting)} requests waiting already "
                "(maxSequenceJobQueueSize); send the next one after an answer."
            )
        return None

    def is_too_late(self, *, now: float, num_workers: int) -> bool:  # noqa: ARG002  # see below
        """Never: how long a sequence's turn takes is not known; its deadline still ends it."""
        return False

    def drained_in_s(self, *, num_workers: int) -> float:  # noqa: ARG002  # clients decide it
        """0: how long a sequence lasts is for its client to say."""
        return 0.0

    def put(self, pending: PendingRequest, *, now: float) -> None:
        """Append a request to its sequence, opening it when it is the first."""
        tag = _tag(pending)
        sequence = self._open.setdefault(tag.id, _Open(tag.id, began_at=now, used_at=now))
        sequence.waiting.append(pending)
        sequence.used_at = now
        sequence.has_ended = tag.ends

    def put_back(self, items: Sequence[PendingRequest], *, now: float) -> None:  # noqa: ARG002  # see below
        """Nothing may run twice here: the state that it would meet has gone with its worker."""
        assert not items, "requests of sequences are not tried again"

    def discard(self, pending: PendingRequest) -> bool:
        sequence = self._open.get(_tag(pending).id)
        if sequence is None or pending not in sequence.waiting:
            return False
        sequence.waiting.remove(pending)
        return True

    def due_at(self) -> None:
        """Never by the clock: requests wait for answers and workers only."""

    def take(self, *, now: float, worker: object, num_free: int = 1) -> list[PendingRequest]:  # noqa: ARG002  # above
        """The next request of each sequence of this worker, and of new ones it has room for."""
        batch: list[PendingRequest] = []
        seats = self._num_seats - sum(each.worker is worker for each in self._open.values())
        for sequence in self._open.values():
            if len(batch) == self._max_batch_size:
                break
            if not sequence.waiting or sequence.running is not None:
                continue
            if sequence.worker is None and seats > 0:
                sequence.worker = worker
                seats -= 1
            if sequence.worker is worker:
                sequence.running = sequence.waiting.popleft()
                batch.append(sequence.running)
        return batch

    def take_all(self) -> list[PendingRequest]:
        """Everything that waits; all sequences close."""
        for sequence in list(self._open.values()):
            self._close(sequence)
        return self._take_orphans()

    def take_displaced(self) -> Sequence[PendingRequest]:
        """None: sequences are alike."""
        return ()

    def take_expired(self, *, now: float) -> list[PendingRequest]:
        """Requests whose sequence closed before their turn; sequences past their time close now."""
        for sequence in list(self._open.values()):
            ends_at = self._ends_at(sequence)
            if ends_at is not None and ends_at <= now:
                self._close(sequence)
        return self._take_orphans()

    def expires_at(self) -> float | None:
        ends = [at for at in map(self._ends_at, self._open.values()) if at is not None]
        return min(ends, default=None)

    def answered(self, pending: PendingRequest, reply: Reply | None, *, now: float) -> None:
        """A request is over: its sequence may go on, or close."""
        sequence = self._open.get(_tag(pending).id)
        if sequence is not None and sequence.running is pending:
            sequence.running = None
            sequence.used_at = now
            if sequence.has_ended and not sequence.waiting:
                self._close(sequence)
        for name, value in reply.headers if reply is not None else ():
            if name.lower() == self._limits.end_header:
                for ended in map(self._open.get, value.split(";")):
                    if ended is not None:
                        self._close(ended)

    def take_ahead(self, *, decode_s: float = 0.0) -> list[PendingRequest]:  # noqa: ARG002  # as above
        """Nothing: a sequence's next request waits for the answer to the one before."""
        return []

    def take_late(self, *, now: float) -> list[PendingRequest]:  # noqa: ARG002  # as above
        return []

    def answered_batch(self, worker: object, *, size: int, seconds: float) -> None:
        """Nothing to learn: nobody waits for company here."""

    def end(self, sequence_id: str) -> None:
        """No more requests of a sequence will come: it closes once those there are answered."""
        sequence = self._open.get(sequence_id)
        if sequence is not None:
            sequence.has_ended = True
            if sequence.running is None and not sequence.waiting:
                self._close(sequence)

    def worker_gone(self, worker: object) -> None:
        """The state of its sequences is gone with it."""
        for sequence in [each for each in self._open.values() if each.worker is worker]:
            self._close(sequence)

    def _ends_at(self, sequence: _Open) -> float | None:
        """When time closes it; a request that runs keeps its sequence from being idle."""
        ends: list[float] = []
        if self._limits.max_age_s:
            ends.append(sequence.began_at + self._limits.max_age_s)
        if self._limits.max_idle_s and sequence.running is None and not sequence.waiting:
            ends.append(sequence.used_at + self._limits.max_idle_s)
        return min(ends, default=None)

    def _close(self, sequence: _Open) -> None:
        del self._open[sequence.id]
        self._orphans += sequence.waiting

    def _take_orphans(self) -> list[PendingRequest]:
        orphans, self._orphans = self._orphans, []
        return orphans


def _tag(pending: PendingRequest) -> SequenceTag:
    assert pending.sequence is not None, "a request without a sequence"
    return pending.sequence
