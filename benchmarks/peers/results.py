"""What `python -m benchmarks.peers.run` finds, as data; saved after every measurement."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from benchmarks.figures import Bare, Load, Machine
from benchmarks.peers.peer import Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A server that took part.

    Attributes:
        name: Of the `Peer`.
        title: As people write it.
        version: As installed.
        settings: How it was tuned.
    """

    name: str
    title: str
    version: str
    settings: str


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A server that could not do a work, and why; it was not timed."""

    work: str
    peer: str
    variant: Variant
    reason: str


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What a server's documentation advises to run before it is started.

    Attributes:
        seconds: It took.
    """

    work: str
    peer: str
    variant: Variant
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One server under load in one round.

    Attributes:
        cpu_us: CPU time of all its processes per request, microseconds.
    """

    round: int
    work: str
    peer: str
    variant: Variant
    load: Load
    cpu_us: float


@dataclass(frozen=True, kw_only=True)
class TimedBare:
    """The program in a loop in one round, in the form that was the fastest.

    Attributes:
        form: What was done to it after loading.
    """

    round: int
    work: str
    form: str
    bare: Bare


@dataclass(frozen=True, kw_only=True)
class Start:
    """From the command to the first right answer."""

    round: int
    work: str
    peer: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One more worker of a server that runs.

    Attributes:
        num_workers: With the new one.
        seconds: From the call until it is ready.
        pss_bytes: Memory of all processes but the first after that, all workers having answered.
    """

    work: str
    peer: str
    num_workers: int
    seconds: float
    pss_bytes: int


@dataclass(kw_only=True)
class Results:
    """One run, as far as it has come.

    Attributes:
        measured_on: `YYYY-MM-DD`.
        num_rounds: That were wanted.
        round_s: Seconds of each measurement, and half of those of slow works.
        num_threads: Of one operation of the model, in every server and in the loop.
        max_batch_size: In every server.
    """

    measured_on: str
    machine: Machine
    num_rounds: int
    round_s: float
    num_threads: int
    max_batch_size: int
    subjects: list[Subject] = field(default_factory=list[Subject])
    absences: list[Absence] = field(default_factory=list[Absence])
    tunings: list[Tuning] = field(default_factory=list[Tuning])
    timed: list[Timed] = field(default_factory=list[Timed])
    bare: list[TimedBare] = field(default_factory=list[TimedBare])
    starts: list[Start] = field(default_factory=list[Start])
    scalings: list[Scaling] = field(default_factory=list[Scaling])

    def add_absence(self, absence: Absence) -> None:
        """Note it in place of an earlier one of the same."""
        self.forget_absence(absence.work, absence.peer, absence.variant)
        self.absences.append(absence)

    def forget_absence(self, work: str, peer: str, variant: Variant) -> None:
        """It takes part now."""
        gone = (work, peer, variant)
        self.absences = [x for x in self.absences if (x.work, x.peer, x.variant) != gone]

    def settings_of(self, subject: Subject) -> str:
        """How it was tuned, and how long what was run before took."""
        taken = [
            f"{each.work} {each.seconds:.0f} s"
            for each in self.tunings
            if each.peer == subject.name and each.variant is Variant.TUNED
        ]
        return f"{subject.settings} ({', '.join(taken)})" if taken else subject.settings

    def title_of(self, peer: str) -> str:
        """As people write it; the name itself of one that did not take part."""
        return next((each.title for each in self.subjects if each.name == peer), peer)

    def loads(
        self, work: str, peer: str, connections: int, variant: Variant = Variant.TUNED
    ) -> list[Load]:
        """One per round in which all requests were answered; see `sound`."""
        measured = [
            each
            for each in self.timed
            if (each.work, each.peer, each.variant) == (work, peer, variant)
            and each.load.connections == connections
        ]
        return [each.load for each in sound(measured)]

    def median_rate(
        self, work: str, peer: str, connections: int, variant: Variant = Variant.TUNED
    ) -> float | None:
        """Requests per second; None when it was not measured, or not without errors."""
        return median(x.requests_per_s for x in self.loads(work, peer, connections, variant))

    def median_p50_ms(
        self, work: str, peer: str, connections: int, variant: Variant = Variant.TUNED
    ) -> float | None:
        """Milliseconds of a request; None as with `median_rate`."""
        return median(x.p50_ms for x in self.loads(work, peer, connections, variant))

    def bares(self, work: str, batch_size: int) -> list[Bare]:
        """One per round."""
        return [
            each.bare
            for each in self.bare
            if each.work == work and each.bare.batch_size == batch_size
        ]

    def median_start_s(self, work: str, peer: str) -> float | None:
        """Seconds to the first right answer."""
        return median(x.seconds for x in self.starts if (x.work, x.peer) == (work, peer))

    def median_scaling_s(self, work: str, peer: str) -> float | None:
        """Seconds until a further worker is ready."""
        return median(x.seconds for x in self._scalings(work, peer) if x.seconds)

    def pss_per_worker_bytes(self, work: str, peer: str) -> float | None:
        """Memory of a further worker."""
        found = self._scalings(work, peer)
        if len(found) < 2:
            return None
        first, last = found[0], found[-1]
        return (last.pss_bytes - first.pss_bytes) / (last.num_workers - first.num_workers)

    def _scalings(self, work: str, peer: str) -> list[Scaling]:
        found = [each for each in self.scalings if (each.work, each.peer) == (work, peer)]
        return sorted(found, key=lambda each: each.num_workers)


def sound(measured: Sequence[Timed]) -> list[Timed]:
    """Rounds that are, if they are more than half."""
    whole = [each for each in measured if is_sound(each)]
    return whole if 2 * len(whole) > len(measured) else []


def is_sound(timed: Timed) -> bool:
    """Whether there were requests, and all of them were answered."""
    return bool(timed.load.num_requests) and not timed.load.num_errors


def median(values: Iterable[float]) -> float | None:
    """None when there are none."""
    found = list(values)
    return statistics.median(found) if found else None


def save(results: Results, path: Path) -> None:
    """Write it as indented JSON; what was there before stays whole until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    beside.replace(path)


def read(path: Path) -> Results:
    """Read what `save` wrote.

    Raises:
        msgspec.ValidationError: It is something else, or from another version.
    """
    return msgspec.json.decode(path.read_bytes(), type=Results)
