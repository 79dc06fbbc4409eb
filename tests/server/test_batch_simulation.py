"""What the rules of batching are worth to users, on simulated time with the real queue.

Each load is run twice: with the queue that never waits ("greedy"), and with the one that may.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import median

import pytest

from flambeau.batch_queue import BatchQueue

MAX_BATCH_SIZE = 16
MAX_DELAY_S = 0.1
Cost = Callable[[int], float]  # size of a batch -> seconds


def per_batch(fixed_ms: float, per_item_ms: float) -> Cost:
    return lambda size: (fixed_ms + per_item_ms * size) / 1000


NEARLY_FIXED = per_batch(10, 0.01)
GPU = per_batch(5, 0.3)
HALF = per_batch(8, 1)
CPU = per_batch(2, 8)
TINY = per_batch(0.3, 0.03)


def slow_at_seven(size: int) -> float:
    return GPU(size) * (5 if size == 7 else 1)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Who asks for what.

    Attributes:
        cost_s: What a batch costs.
        num_workers: How many there are.
        arrivals_at: Requests that come whatever happens.
        num_clients: How many send a request, await its answer, and send the next.
        think_s: Mean time from an answer to the client's next request.
        spread_s: Between the answers of one batch, as the front sends them one by one.
        num_requests: After how many answers the run ends.
        noise: Of the costs, as the deviation of their logarithm.
        timeout_s: In which requests must be answered; 0 for no limit.
        max_delay_s: How long a batch may be held back.
    """

    cost_s: Cost
    num_workers: int = 1
    arrivals_at: tuple[float, ...] = ()
    num_clients: int = 0
    think_s: float = 0.0003
    spread_s: float = 0.00005
    num_requests: int = 1000
    noise: float = 0.05
    timeout_s: float = 0.0
    max_delay_s: float = MAX_DELAY_S


class Event(Enum):
    ARRIVAL = 0
    ANSWER = 1
    TIMER = 2


@dataclass
class Outcome:
    """What became of a load.

    Attributes:
        latencies_s: Of the answers, in their order.
        taken: Requests in the order in which workers got them; they are numbered as they came.
        sizes: Of the batches.
        refused: Requests that were not even put.
        late: Requests that were given up before a worker had them.
        idle_waits_s: How long batches were kept from an idle worker.
        ended_at: When the last answer came.
    """

    latencies_s: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    idle_waits_s: list[float] = field(default_factory=list)
    ended_at: float = 0.0

    @property
    def throughput(self) -> float:
        return len(self.latencies_s) / self.ended_at

    @property
    def mean_s(self) -> float:
        return sum(self.latencies_s) / len(self.latencies_s)


class Simulation:
    """The batcher's part: offers requests to idle workers whenever something happens."""

    def __init__(self, load: Load, *, max_delay_s: float, seed: int = 1) -> None:
        self.load = load
        self.outcome = Outcome()
        self.queue: BatchQueue[int] = BatchQueue(
            max_size=10**6,
            max_batch_size=MAX_BATCH_SIZE,
            max_delay_s=max_delay_s,
            timeout_s=load.timeout_s,
        )
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Event, object]] = []
        self._free = list(range(load.num_workers))
        self._client: list[object] = []
        self._arrived_at: list[float] = []
        self._idle_since: float | None = None

    def run(self) -> Outcome:
        for at in self.load.arrivals_at:
            self._plan(at, Event.ARRIVAL, None)
        for client in range(self.load.num_clients):
            self._plan(client * self.load.spread_s, Event.ARRIVAL, client)
        while self._events and len(self.outcome.latencies_s) < self.load.num_requests:
            now = self._events[0][0]
            while self._events and self._events[0][0] == now:
                _, _, event, what = heapq.heappop(self._events)
                if event is Event.ARRIVAL:
                    self._arrive(what, now=now)
                elif event is Event.ANSWER:
                    self._answer(*what, now=now)  # type: ignore[misc]  # as _dispatch plans it
            self._dispatch(now)
        return self.outcome

    def _plan(self, at: float, event: Event, what: object) -> None:
        heapq.heappush(self._events, (at, next(self._order), event, what))

    def _arrive(self, client: object, *, now: float) -> None:
        item = len(self._arrived_at)
        self._arrived_at.append(now)
        self._client.append(client)
        late = self.load.timeout_s and self.queue.is_too_late(
            now=now, num_workers=self.load.num_workers
        )
        if late:
            self.outcome.refused.append(item)
        else:
            self.queue.put(item, now=now)

    def _dispatch(self, now: float) -> None:
        if self._free:
            self.outcome.late += self.queue.take_late(now=now)
        for worker in self._free[::-1]:
            batch = self.queue.take(now=now, worker=worker, num_free=len(self._free))
            if not batch:
                break
            self._free.remove(worker)
            self.outcome.taken += batch
            self.outcome.sizes.append(len(batch))
            since = self._idle_since
            self.outcome.idle_waits_s.append(0.0 if since is None else now - since)
            self._idle_since = None
            seconds = self.load.cost_s(len(batch)) * self._random.lognormvariate(0, self.load.noise)
            self._plan(now + seconds, Event.ANSWER, (worker, batch, seconds))
        due_at = self.queue.due_at() if self._free else None
        if due_at is None:
            self._idle_since = None
        else:
            self._idle_since = now if self._idle_since is None else self._idle_since
            self._plan(max(now + 1e-6, math.ceil(due_at * 1000) / 1000), Event.TIMER, None)

    def _answer(self, worker: int, batch: list[int], seconds: float, *, now: float) -> None:
        self._free.append(worker)
        self.queue.answered_batch(worker, size=len(batch), seconds=seconds)
        self.outcome.ended_at = now
        for place, item in enumerate(batch):
            self.outcome.latencies_s.append(now - self._arrived_at[item])
            if (client := self._client[item]) is not None:
                think_s = self._random.expovariate(1 / self.load.think_s)
                self._plan(now + place * self.load.spread_s + think_s, Event.ARRIVAL, client)


def run(load: Load, *, seed: int = 1) -> Outcome:
    return Simulation(load, max_delay_s=load.max_delay_s, seed=seed).run()


def run_greedy(load: Load, *, seed: int = 1) -> Outcome:
    return Simulation(load, max_delay_s=0.0, seed=seed).run()


def poisson(rate_hz: float, *, num: int = 1000, seed: int = 1) -> tuple[float, ...]:
    source = random.Random(seed)
    return tuple(itertools.accumulate(source.expovariate(rate_hz) for _ in range(num)))


def bursts(every_s: float, *, size: int, within_s: float, num: int = 80) -> tuple[float, ...]:
    source = random.Random(2)
    begins = itertools.accumulate(source.expovariate(1 / every_s) for _ in range(num))
    return tuple(sorted(at + source.random() * within_s for at in begins for _ in range(size)))


def on_off(rate_hz: float, *, on_s: float, off_s: float) -> tuple[float, ...]:
    return tuple(at + at // on_s * off_s for at in poisson(rate_hz))


LOADS = {
    f"{name}, {num_workers} worker(s)": replace(load, num_workers=num_workers)
    for num_workers in (1, 2)
    for name, load in {
        "a client on a gpu": Load(cost_s=GPU, num_clients=1, num_requests=200),
        "two clients on a gpu": Load(cost_s=GPU, num_clients=2),
        "16 clients on a gpu": Load(cost_s=GPU, num_clients=16),
        "64 clients on a gpu": Load(cost_s=GPU, num_clients=64, num_requests=2000),
        "slow clients on a gpu": Load(cost_s=GPU, num_clients=16, think_s=0.01),
        "8 clients on a cpu": Load(cost_s=CPU, num_clients=8),
        "16 clients, half fixed": Load(cost_s=HALF, num_clients=16),
        "16 clients on a tiny model": Load(cost_s=TINY, num_clients=16),
        "few requests": Load(cost_s=GPU, arrivals_at=poisson(30, num=300)),
        "some requests": Load(cost_s=GPU, arrivals_at=poisson(400)),
        "many requests": Load(cost_s=GPU, arrivals_at=poisson(1200)),
        "some requests on a cpu": Load(cost_s=CPU, arrivals_at=poisson(60)),
        "on and off": Load(cost_s=HALF, arrivals_at=on_off(500, on_s=0.1, off_s=0.3)),
        "bursts": Load(cost_s=HALF, arrivals_at=bursts(0.1, size=12, within_s=0.002)),
        "costs that vary": Load(cost_s=GPU, num_clients=16, noise=0.4),
        "a slow size": Load(cost_s=slow_at_seven, num_clients=20, num_requests=2000),
    }.items()
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_waiting_never_costs_much(load: Load) -> None:
    greedy, waiting = run_greedy(load), run(load)
    assert waiting.throughput >= 0.98 * greedy.throughput
    assert waiting.mean_s <= 1.03 * greedy.mean_s
    assert median(waiting.latencies_s) <= 1.1 * median(greedy.latencies_s)
    assert waiting.taken == sorted(waiting.taken)
    assert len(set(waiting.taken)) == len(waiting.taken) >= len(waiting.latencies_s)
    assert not load.arrivals_at or len(waiting.latencies_s) == min(
        len(load.arrivals_at), load.num_requests
    )


@pytest.mark.parametrize(
    ("load", "gain"),
    [
        (Load(cost_s=NEARLY_FIXED, num_clients=2), 1.6),
        (Load(cost_s=NEARLY_FIXED, num_clients=16, num_requests=2000), 1.3),
        (Load(cost_s=NEARLY_FIXED, num_clients=16, num_workers=2), 1.15),
        (Load(cost_s=GPU, num_clients=2), 1.4),
        (Load(cost_s=GPU, num_clients=16, num_workers=2), 1.15),
    ],
)
def test_clients_that_come_back_at_once_are_waited_for(load: Load, gain: float) -> None:
    assert run(load).throughput >= gain * run_greedy(load).throughput


@pytest.mark.parametrize("num_workers", [1, 2])
def test_bursts_are_waited_for(num_workers: int) -> None:
    arrivals_at = bursts(0.05, size=12, within_s=0.002)
    load = Load(cost_s=NEARLY_FIXED, num_workers=num_workers, arrivals_at=arrivals_at)
    assert run(load).mean_s <= 0.9 * run_greedy(load).mean_s


@pytest.mark.parametrize("cost_s", [NEARLY_FIXED, GPU, CPU, TINY])
def test_a_client_alone_never_waits(cost_s: Cost) -> None:
    outcome = run(Load(cost_s=cost_s, num_clients=1, num_requests=300, noise=0.0))
    assert outcome.latencies_s == pytest.approx([cost_s(1)] * 300)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_saturated_worker_gets_full_batches_and_no_rest(num_workers: int) -> None:
    load = Load(cost_s=GPU, num_workers=num_workers, num_clients=128, num_requests=3000, noise=0)
    outcome = run(load)
    assert set(outcome.sizes[10:]) == {MAX_BATCH_SIZE}
    best = num_workers * MAX_BATCH_SIZE / GPU(MAX_BATCH_SIZE)
    assert outcome.throughput >= 0.97 * best


@pytest.mark.parametrize("max_delay_s", [0.002, 0.02])
def test_no_batch_is_held_longer_than_the_delay(max_delay_s: float) -> None:
    held = 0
    for load in LOADS.values():
        short = replace(load, max_delay_s=max_delay_s, num_requests=400)
        waits_s = run(short).idle_waits_s
        assert max(waits_s) <= max_delay_s + 0.001  # timers count milliseconds
        held += sum(wait_s > 0 for wait_s in waits_s)
    assert held > 100


def in_time(outcome: Outcome, load: Load) -> int:
    return sum(latency_s <= load.timeout_s for latency_s in outcome.latencies_s)


@pytest.mark.parametrize("cost_s", [GPU, CPU])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_too_many_requests_do_not_make_all_answers_late(cost_s: Cost, num_workers: int) -> None:
    capacity_hz = num_workers * MAX_BATCH_SIZE / cost_s(MAX_BATCH_SIZE)
    timeout_s = 10 * cost_s(1)
    load = Load(
        cost_s=cost_s,
        num_workers=num_workers,
        arrivals_at=poisson(2 * capacity_hz, num=2000),
        num_requests=2000,
        timeout_s=timeout_s,
    )
    outcome = run(load)
    assert in_time(outcome, load) >= 0.9 * 1000  # half of all is what the workers can do
    assert in_time(outcome, load) >= 0.95 * len(outcome.taken)
    seen = outcome.taken + outcome.refused + outcome.late
    assert sorted(seen) == list(range(2000))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_nobody_is_refused_who_can_be_answered_in_time(num_workers: int) -> None:
    rate_hz = 0.5 * num_workers * MAX_BATCH_SIZE / GPU(MAX_BATCH_SIZE)
    load = Load(
        cost_s=GPU, num_workers=num_workers, arrivals_at=poisson(rate_hz), timeout_s=4 * GPU(1)
    )
    assert in_time(run(load), load) == 1000


def test_a_model_that_was_slow_at_first_is_tried_again() -> None:
    runs = itertools.count()

    def cost_s(size: int) -> float:
        return 1.0 if next(runs) < 5 else GPU(size)

    load = Load(cost_s=cost_s, arrivals_at=poisson(200, num=3000), num_requests=3000, timeout_s=0.1)
    simulation = Simulation(load, max_delay_s=MAX_DELAY_S)
    outcome = simulation.run()
    given_up = sorted(outcome.refused + outcome.late)
    assert all(item < 1500 for item in given_up)
