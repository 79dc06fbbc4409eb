"""What `test_batcher_machine.py` moves about: a clock, requests and workers with histories."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flambeau.errors import WorkerError
from flambeau.messages import Failure, FailureKind, InferenceRequest, Input, MetricSample, Reply
from flambeau.pending import PendingRequest
from flambeau.priority_queue import HANDICAP_S, Priority
from flambeau.testing import FakeWorker, echo

PRIORITY_HEADER = "x-priority"
BAD = b"bad"  # how the bodies begin that the handler refuses


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still between two rules: never wait on it, take steps."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def step(self, num: int) -> None:
        """So many rounds of what is ready or due."""

        async def steps() -> None:
            for _ in range(num):
                await asyncio.sleep(0)

        self.run_until_complete(steps())


class Counting:
    """Looks at each batch, and counts what becomes of the requests of lost workers."""

    def __init__(self) -> None:
        self.num_rerun = 0
        self.num_poison = 0
        self.num_refused = 0

    def batch_started(
        self, *, size: int, queue_waits_s: Sequence[float], versions_given: Sequence[bool]
    ) -> None:
        assert min(queue_waits_s) >= 0
        assert len(queue_waits_s) == len(versions_given) == size

    def batch_done(
        self, *, handler_s: float, roundtrip_s: float, request_ids: Iterable[str]
    ) -> None:
        assert roundtrip_s >= handler_s >= 0

    def samples(self, samples: Sequence[MetricSample]) -> None:
        raise AssertionError(f"the worker sends none, but there are {samples}")

    def requests_rerun(self, number: int) -> None:
        self.num_rerun += number

    def poison_found(self) -> None:
        self.num_poison += 1

    def poison_refused(self) -> None:
        self.num_refused += 1


@dataclass(eq=False, kw_only=True)
class Sent:
    """A request as its sender sees it.

    Attributes:
        number: Its place among all.
        body: What the answer must be.
        priority: How urgent it is.
        pending: Its place in the server.
        queued_at: Since when it waits in the queue.
        is_again: Whether it waits there because its batch was put back.
        num_runs: How often a worker began with it.
        num_losses: How many of these ended their worker.
        fails_with: The error of a lost worker that it has to hear.
        has_left: Whether its sender left while no worker had it.
        is_given_up: Whether it waited when it was said that no worker will come.
    """

    number: int
    body: bytes
    priority: Priority
    pending: PendingRequest
    queued_at: float
    is_again: bool = False
    num_runs: int = 0
    num_losses: int = 0
    fails_with: type[WorkerError] | None = None
    has_left: bool = False
    is_given_up: bool = False

    @property
    def is_over(self) -> bool:
        return self.pending.is_over

    @property
    def turn(self) -> tuple[bool, float, int]:
        """What is taken before what."""
        return not self.is_again, self.queued_at + HANDICAP_S * self.priority.value, self.number


@dataclass(eq=False)
class Place:
    """A worker and what it was given.

    Attributes:
        worker: Answers, or is lost, when told to.
        batches: Those under way, oldest first.
        num_seen: Batches that were looked at so far.
        is_lost: Whether it is gone, and the batcher not yet told to forget it.
        releasing: Done once the batcher has let it go; None while it may take batches.
    """

    worker: FakeWorker = field(default_factory=lambda: FakeWorker(answer, held=True))
    batches: list[list[Sent]] = field(default_factory=list[list[Sent]])
    num_seen: int = 0
    is_lost: bool = False
    releasing: asyncio.Task[None] | None = None

    @property
    def takes_batches(self) -> bool:
        return not self.is_lost and self.releasing is None

    @property
    def runs_suspect(self) -> bool:
        """Whether it has a request that another worker was lost with."""
        return any(sent.num_losses for batch in self.batches for sent in batch)


def answer(request: InferenceRequest) -> Reply | Failure:
    if bytes(request.inputs[0].body).startswith(BAD):
        return Failure(FailureKind.INVALID_INPUT, "it begins badly")
    return echo(request)


def request_of(number: int, body: bytes, priority: Priority) -> InferenceRequest:
    return InferenceRequest(
        request_id=str(number),
        headers=[(PRIORITY_HEADER, priority.name.lower())],
        inputs=[Input(name="body", content_type=None, body=memoryview(body))],
    )
