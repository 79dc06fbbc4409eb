"""Requests that a lost worker had: which of them run again, and which are to blame.

Those of a batch run once more, one by one on one worker, so that the others go on meanwhile and a
request that ends workers ends two: the one of its batch, and the one it has to itself.
"""

from __future__ import annotations

from typing import Final, Protocol

from flambeau.errors import Quarantined, WorkerError, WorkerTimeout
from flambeau.messages import InferenceRequest
from flambeau.pending import PendingRequest
from flambeau.quarantine import Quarantine

_SHARE: Final = 0.1  # of the requests so far that may run again
_MIN_RESERVE: Final = 256  # requests that may run again at once, whatever there was before
_RESERVE_BATCHES: Final = 32  # full ones, the same


class SuspectObserver(Protocol):
    """Told what becomes of the requests of lost workers; `metrics.py` counts."""

    def requests_rerun(self, number: int) -> None: ...

    def poison_found(self) -> None: ...

    def poison_refused(self) -> None: ...


class RetryBudget:
    """How many requests may run again: a share of the traffic, and a reserve that it refills."""

    def __init__(self, *, max_batch_size: int) -> None:
        """Begin with the whole reserve."""
        self._reserve = float(max(_MIN_RESERVE, _RESERVE_BATCHES * max_batch_size))
        self._left = self._reserve
        self._num_seen = 0

    def take(self, number: int, *, num_served: int) -> bool:
        """Whether so many may run again, after `num_served` requests in all."""
        earned = _SHARE * (num_served - self._num_seen)
        self._left = min(self._reserve, self._left + earned)
        self._num_seen = num_served
        if number > self._left:
            return False
        self._left -= number
        return True


class Suspects:
    """Owner of the requests that are to run again, each alone.

    Attributes:
        waiting: Those that no worker has yet, oldest first.
        quarantine: What is refused at once.
    """

    def __init__(
        self,
        quarantine: Quarantine,
        *,
        label: str,
        retry: bool,
        max_batch_size: int,
        observer: SuspectObserver,
    ) -> None:
        # for the life of the version
        self.quarantine = quarantine
        self._label = label
        self._retry = retry
        self._budget = RetryBudget(max_batch_size=max_batch_size)
        self._observer = observer
        # until they run
        self.waiting: dict[PendingRequest, None] = {}

    def check(self, request: InferenceRequest, *, now: float) -> None:
        """Refuse what has ended workers; ask only while `quarantine.sizes` is not empty.

        Raises:
            Quarantined: It has.
        """
        left_s = self.quarantine.left_s(request, now=now)
        if left_s > 0:
            self._observer.poison_refused()
            raise Quarantined(
                f"{self._label} lost its worker each time it ran exactly this request, so it is "
                f"not run again for {left_s:.0f} s (quarantineSec); mend the request or the model"
            )

    def judge(
        self, batch: list[PendingRequest], error: WorkerError, *, now: float, num_served: int
    ) -> list[PendingRequest]:
        """Sort the requests a worker was lost with; those that may run again wait here now.

        One that was alone and outlasted its deadline is not tried again: it would again. Else the
        second worker lost is proof enough.

        Returns:
            Those that fail.
        """
        again: list[PendingRequest] = []
        if self._retry:
            again = [each for each in batch if not each.is_over and not each.has_lost_a_worker]
            if len(batch) == 1 and self._is_to_blame(batch[0], error, now=now):
                again = []
        if not again or not self._budget.take(len(again), num_served=num_served):
            return batch
        for pending in again:
            pending.has_lost_a_worker = True
            self.waiting[pending] = None
        self._observer.requests_rerun(len(again))
        return [each for each in batch if each not in self.waiting]

    def take(self) -> PendingRequest:
        """The oldest that waits."""
        pending = next(iter(self.waiting))
        del self.waiting[pending]
        return pending

    def take_all(self) -> list[PendingRequest]:
        """All that wait."""
        found = list(self.waiting)
        self.waiting.clear()
        return found

    def discard(self, pending: PendingRequest) -> bool:
        """Forget one that nobody waits for any more; False when it does not wait here."""
        if pending not in self.waiting:
            return False
        del self.waiting[pending]
        return True

    def _is_to_blame(self, pending: PendingRequest, error: WorkerError, *, now: float) -> bool:
        """Whether a request that was alone with a lost worker is not to run again."""
        if pending.has_lost_a_worker:
            self.quarantine.convict(pending.request, now=now)
            self._observer.poison_found()
            return True
        if isinstance(error, WorkerTimeout) or pending.is_over:
            if self.quarantine.suspect(pending.request, now=now):
                self._observer.poison_found()
            return True
        return False
