"""Any order of arrivals, departures, answers and losses, on a clock that only the test moves.

Whatever happens, each request ends exactly once: answered with its own body, failed for a reason
that the model knows, or withdrawn by its caller; and nothing waits that a worker could take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flambeau.batch_queue import BatchQueue
from flambeau.batcher import Batcher, BatchPolicy
from flambeau.errors import (
    DeadlineExceeded,
    InvalidInput,
    NoWorker,
    Quarantined,
    QueueFull,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from flambeau.messages import Reply
from flambeau.pending import PendingRequest
from flambeau.priority_queue import Priority, PriorityQueue
from tests.server.batcher_parts import (
    BAD,
    PRIORITY_HEADER,
    Counting,
    ManualLoop,
    Place,
    Sent,
    request_of,
)

MAX_WAITING = 6
MAX_WORKERS = 3
TIMEOUT_S = 2.0
_ENOUGH_STEPS = 12  # of the loop, until nothing is due any more
_TICK_S = 0.001


class Traffic(RuleBasedStateMachine):
    """One batcher, its callers, and workers that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        self.counted = Counting()
        self.sent: dict[str, Sent] = {}
        self.told: Counter[str] = Counter()
        self.places: list[Place] = []
        self.is_awaited = False  # a worker
        self.num_rerun = 0
        self.poison: list[bytes] = []  # bodies that are to be refused
        self.num_refused = 0

    @initialize(
        max_batch_size=st.integers(1, 4),
        concurrency=st.sampled_from([1, 1, 2]),
        max_delay_s=st.sampled_from([0.0, 0.1]),
        hold_s=st.sampled_from([0.0, 0.05]),
        timeout_s=st.sampled_from([0.0, 0.0, TIMEOUT_S]),
        retry=st.sampled_from([True, True, False]),
        has_priorities=st.booleans(),
        knows_costs=st.sampled_from([True, True, False]),
        num_workers=st.integers(0, 2),
    )
    def begin(
        self,
        *,
        max_batch_size: int,
        concurrency: int,
        max_delay_s: float,
        hold_s: float,
        timeout_s: float,
        num_workers: int,
        retry: bool,
        has_priorities: bool,
        knows_costs: bool,
    ) -> None:
        self.concurrency = concurrency
        self.max_batch_size = max_batch_size if concurrency == 1 else 1
        self.longest_wait_s = max(hold_s, max_delay_s)
        self.timeout_s = timeout_s
        self.max_runs = 2 if retry else 1
        self.priorities = list(Priority) if has_priorities else [Priority.NORMAL]
        make: Callable[..., BatchQueue[PendingRequest]] = BatchQueue
        if has_priorities:
            make = partial(PriorityQueue, header=PRIORITY_HEADER)
        queue = make(
            max_size=MAX_WAITING,
            max_batch_size=self.max_batch_size,
            hold_s=hold_s,
            max_delay_s=max_delay_s,
            timeout_s=timeout_s,
        )
        for _ in range(3 * knows_costs):  # so quick that a busy worker is given the next batch
            queue.answered_batch(None, size=self.max_batch_size, seconds=0.001)
        self.batcher = Batcher(
            queue,
            BatchPolicy(
                label='Model "m"',
                concurrency=concurrency,
                max_batch_size=self.max_batch_size,
                retry=retry,
                client_timeout_s=timeout_s,
            ),
            observer=self.counted,
            loop=self.loop,
            awaits_worker=lambda: self.is_awaited,
        )
        for _ in range(num_workers):
            self.add_worker()

    # what happens

    @rule(data=st.data(), num=st.integers(1, 5))
    def requests_come(self, data: st.DataObject, num: int) -> None:
        for _ in range(num):
            priority = data.draw(st.sampled_from(self.priorities))
            beginning = data.draw(st.sampled_from([b"good", b"good", BAD]))
            if not self.batcher.room:
                self.settle()  # who had to make room for the one before is told
            self.submit(beginning + b"-%d" % len(self.sent), priority)
        self.settle()

    @precondition(lambda self: self.poison)
    @rule(data=st.data())
    def what_has_ended_two_workers_comes_again(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(self.poison))
        with pytest.raises(Quarantined):
            self.batcher.submit(request_of(-1, body, Priority.NORMAL))
        self.num_refused += 1

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def a_caller_leaves(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(list(self.sent.values())))
        sent.has_left |= sent in self.waiting()
        sent.pending.abandon()
        self.settle()

    @precondition(lambda self: len(self.places) < MAX_WORKERS)
    @rule()
    def a_worker_comes(self) -> None:
        self.add_worker()

    def add_worker(self) -> None:
        self.is_awaited = False
        place = Place()
        self.places.append(place)
        self.batcher.add(place.worker)
        self.settle()

    @rule()
    def a_worker_is_on_its_way(self) -> None:
        self.is_awaited = True
        self.batcher.reconsider()
        self.settle()

    @precondition(lambda self: self.is_awaited)
    @rule()
    def it_will_not_come(self) -> None:
        self.is_awaited = False
        self.batcher.reconsider()
        self.settle()

    @precondition(lambda self: not self.places and self.waiting())
    @rule()
    def no_worker_will_come(self) -> None:
        given_up = self.waiting()
        for sent in given_up:
            sent.is_given_up = True
        self.batcher.fail_waiting("there are no workers")
        assert all(sent.is_over for sent in given_up)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), seconds=st.sampled_from([0.001, 0.02, 0.3]))
    def a_worker_answers(self, data: st.DataObject, seconds: float) -> None:
        place = data.draw(st.sampled_from(self.busy()))
        self.loop.now += seconds
        self.answer(place)
        self.settle()

    @precondition(lambda self: self.busy())
    @rule(error=st.sampled_from([WorkerDied, WorkerTimeout]), is_noticed=st.booleans())
    def a_worker_is_lost(self, error: type[WorkerError], *, is_noticed: bool) -> None:
        place = max(self.busy(), key=lambda place: len(place.batches))
        num_lost = 1 if self.concurrency == 1 else len(place.batches)
        lost, ahead = place.batches[:num_lost], place.batches[num_lost:]
        place.batches, place.is_lost = [], True
        hurt = [sent for batch in lost for sent in batch if not sent.is_over]
        for batch in lost:
            self.note_loss(batch, error)
            place.worker.fail_next(error("the worker is lost"))
            error = WorkerDied  # for those that had more time
        for batch in ahead:
            self.put_back(batch)
            place.worker.fail_next(WorkerDied("the worker is lost"))
        self.settle()
        assert all(sent.is_over == (sent.fails_with is not None) for sent in hurt)
        if is_noticed and place in self.places:
            self.release(place)

    @precondition(lambda self: any(place.releasing is None for place in self.places))
    @rule(data=st.data())
    def a_worker_is_let_go(self, data: st.DataObject) -> None:
        there = [place for place in self.places if place.releasing is None]
        self.release(data.draw(st.sampled_from(there)))

    @rule(seconds=st.sampled_from([0.0005, 0.06, 0.11, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.settle()

    # what must be true whenever nothing happens

    @invariant()
    def nobody_hears_twice_and_everybody_the_right_thing(self) -> None:
        for number, sent in self.sent.items():
            result = sent.pending.result
            assert self.told[number] == (result is not None)
            match result:
                case None:
                    assert sent.is_over or sent.fails_with is None
                case Reply(body=body):
                    assert bytes(body) == sent.body
                case InvalidInput():
                    assert sent.body.startswith(BAD)
                case NoWorker():
                    assert sent.is_given_up
                case WorkerDied() | WorkerTimeout():
                    assert type(result) is sent.fails_with
                case QueueFull():
                    assert sent.num_runs == 0
                    assert sent.priority.value > min(each.value for each in self.priorities)
                case DeadlineExceeded():
                    assert self.timeout_s
                case other:
                    raise AssertionError(f"nobody should hear {other!r}")

    @invariant()
    def all_are_counted(self) -> None:
        if not self.sent:
            return
        assert self.batcher.num_waiting == len(self.waiting())
        assert self.batcher.num_running == sum(
            len(batch) for place in self.places for batch in place.batches
        )
        assert self.counted.num_rerun == self.num_rerun
        assert self.counted.num_poison == len(self.poison)
        assert self.counted.num_refused == self.num_refused

    @invariant()
    def nobody_waits_longer_than_the_client_does(self) -> None:
        for sent in self.sent.values():
            if not sent.is_over and self.timeout_s:
                assert self.loop.now < sent.pending.arrived_at + self.timeout_s + _TICK_S

    @invariant()
    def nothing_waits_for_a_worker_that_has_nothing_to_do(self) -> None:
        waiting = [sent for sent in self.waiting() if not sent.num_losses]
        if not waiting or not any(self.has_room(place) for place in self.places):
            return
        assert len(waiting) < self.max_batch_size
        again = [sent.queued_at for sent in waiting if sent.is_again]
        since = max(again) if again else min(sent.queued_at for sent in waiting)
        assert self.loop.now < since + self.longest_wait_s + _TICK_S

    @invariant()
    def suspects_run_one_by_one_as_soon_as_a_worker_may_be_set_apart(self) -> None:
        examiners = [place for place in self.places if place.runs_suspect and place.takes_batches]
        assert len(examiners) <= 1
        following = self.next_examiner()
        assert following is None or following.batches

    def teardown(self) -> None:
        """With a worker that answers, all that is left ends."""
        if hasattr(self, "batcher"):
            self.drain()
        self.loop.close()

    def drain(self) -> None:
        drained = self.loop.create_task(self.batcher.wait_drained())
        for place in list(self.places):
            if place.is_lost and place.releasing is None:
                self.release(place)
        self.add_worker()
        for _ in range(len(self.sent) + 3):
            self.loop.now += 0.2
            for place in self.busy():
                self.answer(place)
            self.settle()
        assert all(sent.is_over for sent in self.sent.values())
        assert drained.done()
        self.batcher.close("the test is over")

    # how it is done

    def waiting(self) -> list[Sent]:
        """Requests that no worker has, in order of arrival."""
        given = {sent for place in self.places for batch in place.batches for sent in batch}
        return [sent for sent in self.sent.values() if not sent.is_over and sent not in given]

    def busy(self) -> list[Place]:
        return [place for place in self.places if place.batches]

    def has_room(self, place: Place) -> bool:
        """Whether a worker could take a batch."""
        is_full = place.runs_suspect or len(place.batches) >= self.concurrency
        return place.takes_batches and not is_full and place is not self.next_examiner()

    def next_examiner(self) -> Place | None:
        """The worker that takes nothing more, as requests wait to have it to themselves."""
        if not any(sent.num_losses for sent in self.waiting()):
            return None
        if self.is_awaited or any(place.is_lost for place in self.places):
            return None
        there = [place for place in self.places if place.takes_batches]
        if any(place.runs_suspect for place in there):
            return None
        return min(there, key=lambda place: len(place.batches), default=None)

    def submit(self, body: bytes, priority: Priority) -> None:
        number = len(self.sent)
        request = request_of(number, body, priority)
        try:
            pending = self.batcher.submit(request, on_result=self.tell)
        except QueueFull:
            assert self.batcher.room == 0
            queued = [sent for sent in self.waiting() if not sent.num_losses]
            is_over_full = len(queued) > MAX_WAITING  # as some were put back
            assert is_over_full or all(each.priority.value <= priority.value for each in queued)
        except DeadlineExceeded:
            assert self.timeout_s
        else:
            self.sent[request.request_id] = Sent(
                number=number,
                body=body,
                priority=priority,
                pending=pending,
                queued_at=self.loop.now,
            )

    def tell(self, pending: PendingRequest) -> None:
        self.told[pending.request.request_id] += 1

    def answer(self, place: Place) -> None:
        """Let a worker answer the oldest batch it has."""
        del place.batches[0]
        place.worker.answer_next()
        if self.concurrency == 1 and place.batches:
            self.note_run(place.batches[0])

    def release(self, place: Place) -> None:
        place.releasing = self.loop.create_task(self.batcher.release(place.worker))
        self.settle()

    def note_run(self, batch: list[Sent]) -> None:
        for sent in batch:
            sent.num_runs += 1
            assert sent.num_runs <= self.max_runs

    def note_loss(self, batch: list[Sent], error: type[WorkerError]) -> None:
        """A worker was lost while it ran this batch."""
        if self.max_runs > 1 and batch[0].num_losses:
            self.poison.append(batch[0].body)
        for sent in batch:
            if sent.is_over:
                continue
            sent.num_losses += 1
            has_outlasted_it_alone = error is WorkerTimeout and len(batch) == 1
            if sent.num_losses == self.max_runs or has_outlasted_it_alone:
                sent.fails_with = error
            else:
                self.num_rerun += 1

    def put_back(self, batch: list[Sent]) -> None:
        """A worker was lost before it began with this batch."""
        for sent in batch:
            sent.is_again, sent.queued_at = True, self.loop.now

    def settle(self) -> None:
        """Let everything that is due happen, then look at the batches that left."""
        now = self.loop.now
        before = [s for s in self.waiting() if not (s.is_again and s.queued_at == now)]
        self.loop.step(_ENOUGH_STEPS)
        taken: list[Sent] = []
        for place in self.places:
            if self.concurrency > 1:  # what nobody waits for is cancelled
                place.batches = [batch for batch in place.batches if not batch[0].is_over]
            for requests in place.worker.batches[place.num_seen :]:
                batch = [self.sent[request.request_id] for request in requests]
                self.look_at(batch, place)
                taken += [sent for sent in batch if not sent.num_losses]
            place.num_seen = len(place.worker.batches)
        for sent in set(self.waiting()) & set(before):
            if not sent.num_losses:
                assert all(each.turn < sent.turn for each in taken if not each.is_again)
        for sent in taken:
            sent.is_again = False
        for place in self.places:
            assert place.releasing is None or place.releasing.done() == (not place.batches)
        self.places = [
            place for place in self.places if place.releasing is None or not place.releasing.done()
        ]

    def look_at(self, batch: list[Sent], place: Place) -> None:
        """A worker has got one more batch."""
        assert 1 <= len(batch) <= self.max_batch_size
        assert place.takes_batches
        assert not any(sent.has_left for sent in batch), "who left while waiting is not computed"
        assert not place.runs_suspect, "who may end a worker has it to itself"
        if any(sent.num_losses for sent in batch):
            assert len(batch) == 1
            assert not place.batches
        for priority in Priority:
            numbers = [s.number for s in batch if s.priority is priority and not s.is_again]
            assert numbers == sorted(numbers)
        place.batches.append(batch)
        if self.concurrency > 1 or len(place.batches) == 1:
            self.note_run(batch)


TestTraffic = pytest.mark.slow(Traffic.TestCase)
TestTraffic.settings = settings(
    max_examples=80,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
