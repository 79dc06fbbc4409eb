"""What Flambeau is to reach beside its peers, and whether it did."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from benchmarks.peers.peer import Variant
from benchmarks.peers.results import median

if TYPE_CHECKING:
    from benchmarks.peers.results import Results

OURS: Final = "flambeau"


class Outcome(str, enum.Enum):
    """Of one target."""

    REACHED = "reached"
    MISSED = "missed"
    UNKNOWN = "not measured"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One target, judged.

    Attributes:
        work: `W1` to `W5`, or `start`.
        measure: What is compared.
        wanted: At least or at most this.
        found: What was measured, the ratio first.
        outcome: Whether it is enough.
    """

    work: str
    measure: str
    wanted: str
    found: str
    outcome: Outcome


class Target(Protocol):
    """Something to reach."""

    def judge(self, results: Results) -> Verdict: ...


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Requests per second, as a multiple of the fastest of some peers.

    Attributes:
        variant: Ours.
        rivals: Names of peers, all tuned.
    """

    work: str
    connections: int
    rivals: tuple[str, ...]
    at_least: float
    variant: Variant = Variant.TUNED

    def judge(self, results: Results) -> Verdict:
        ours = results.median_rate(self.work, OURS, self.connections, self.variant)
        rates = {
            peer: rate
            for peer in self.rivals
            if (rate := results.median_rate(self.work, peer, self.connections)) is not None
        }
        best = max(rates, key=lambda peer: rates[peer]) if rates else None
        name = " or ".join(results.title_of(peer) for peer in self.rivals)
        more = "" if self.variant is Variant.TUNED else f", `{self.variant}`"
        ratio = None if ours is None or best is None else ours / rates[best]
        whom = "" if best is None else f"{results.title_of(best)} {rates[best]:,.0f}/s"
        return Verdict(
            work=self.work,
            measure=f"requests/s at {self.connections} connections{more}",
            wanted=f"≥ {self.at_least:g} x {name}",
            found="" if ratio is None else f"{ratio:.2f} x ({ours:,.0f}/s to {whom})",
            outcome=_outcome(None if ratio is None else ratio >= self.at_least),
        )


@dataclass(frozen=True, kw_only=True)
class RateOfBare:
    """Requests per second, as a share of the program in a loop at the same batch size."""

    work: str
    connections: int
    at_least: float

    def judge(self, results: Results) -> Verdict:
        ours = results.median_rate(self.work, OURS, self.connections)
        bare = median(x.samples_per_s for x in results.bares(self.work, self.connections))
        ratio = None if ours is None or bare is None else ours / bare
        return Verdict(
            work=self.work,
            measure=f"requests/s at {self.connections} connections",
            wanted=f"≥ {self.at_least:g} x the bare program, batch {self.connections}",
            found="" if ratio is None else f"{ratio:.2f} x ({ours:,.1f}/s to {bare:,.1f}/s)",
            outcome=_outcome(None if ratio is None else ratio >= self.at_least),
        )


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Median time of a request over one connection, as a share of a peer's."""

    work: str
    rival: str
    rival_variant: Variant
    at_most: float

    def judge(self, results: Results) -> Verdict:
        ours = results.median_p50_ms(self.work, OURS, 1)
        theirs = results.median_p50_ms(self.work, self.rival, 1, self.rival_variant)
        ratio = None if ours is None or theirs is None else ours / theirs
        return Verdict(
            work=self.work,
            measure=f"p50 at 1 connection, {self.rival_variant}",
            wanted=f"≤ 1/{1 / self.at_most:g} of {results.title_of(self.rival)}",
            found="" if ratio is None else f"1/{1 / ratio:.1f} ({ours:.2f} ms to {theirs:.2f} ms)",
            outcome=_outcome(None if ratio is None else ratio <= self.at_most),
        )


@dataclass(frozen=True, kw_only=True)
class LatencyOverBare:
    """Median time of a request over one connection, over that of calling the program."""

    work: str
    at_most_ms: float

    def judge(self, results: Results) -> Verdict:
        ours = results.median_p50_ms(self.work, OURS, 1)
        bare = median(x.p50_ms for x in results.bares(self.work, 1))
        more = None if ours is None or bare is None else ours - bare
        return Verdict(
            work=self.work,
            measure="p50 at 1 connection",
            wanted=f"≤ bare call + {self.at_most_ms:g} ms",
            found="" if more is None else f"+ {more:.2f} ms ({ours:.2f} ms to {bare:.2f} ms)",
            outcome=_outcome(None if more is None else more <= self.at_most_ms),
        )


@dataclass(frozen=True, kw_only=True)
class FirstAnswer:
    """Time from the command to the first right answer, as a share of a peer's."""

    work: str
    rival: str
    at_most: float = 1.0

    def judge(self, results: Results) -> Verdict:
        ours = results.median_start_s(self.work, OURS)
        theirs = results.median_start_s(self.work, self.rival)
        ratio = None if ours is None or theirs is None else ours / theirs
        return Verdict(
            work="start",
            measure=f"command to first right answer, {self.work}",
            wanted=f"≤ {self.at_most:g} x {results.title_of(self.rival)}",
            found="" if ratio is None else f"{ratio:.2f} x ({ours:.1f} s to {theirs:.1f} s)",
            outcome=_outcome(None if ratio is None else ratio <= self.at_most),
        )


@dataclass(frozen=True, kw_only=True)
class FurtherWorker:
    """Time until a further worker is ready."""

    work: str
    at_most_s: float

    def judge(self, results: Results) -> Verdict:
        seconds = results.median_scaling_s(self.work, OURS)
        return Verdict(
            work="start",
            measure=f"a further worker ready, {self.work}",
            wanted=f"≤ {self.at_most_s:g} s",
            found="" if seconds is None else f"{seconds:.2f} s",
            outcome=_outcome(None if seconds is None else seconds <= self.at_most_s),
        )


@dataclass(frozen=True, kw_only=True)
class WorkerMemory:
    """Memory of a further worker, as a share of a peer's."""

    work: str
    rival: str
    at_most: float

    def judge(self, results: Results) -> Verdict:
        ours = results.pss_per_worker_bytes(self.work, OURS)
        theirs = results.pss_per_worker_bytes(self.work, self.rival)
        ratio = None if ours is None or theirs is None else ours / theirs
        found = ""
        if ours is not None and theirs is not None:
            found = f"{ratio:.2f} x ({ours / 2**20:.0f} MiB to {theirs / 2**20:.0f} MiB)"
        return Verdict(
            work="start",
            measure=f"PSS of a further worker, {self.work}",
            wanted=f"≤ 1/{1 / self.at_most:.0f} of {results.title_of(self.rival)}",
            found=found,
            outcome=_outcome(None if ratio is None else ratio <= self.at_most),
        )


JSON_RIVALS: Final = ("torchserve", "litserve", "mlserver", "bentoml")

TARGETS: Final[tuple[Target, ...]] = (
    Rate(work="W1", connections=64, rivals=("mosec",), at_least=1.5),
    Rate(work="W1", connections=64, rivals=("torchserve",), at_least=4),
    Rate(work="W1", connections=16, rivals=("mosec",), at_least=1.2),
    Rate(work="W1", connections=16, rivals=("torchserve",), at_least=3),
    Latency(work="W1", rival="torchserve", rival_variant=Variant.DEFAULT_DELAY, at_most=1 / 5),
    Latency(work="W1", rival="mosec", rival_variant=Variant.DEFAULT_DELAY, at_most=1 / 5),
    LatencyOverBare(work="W1", at_most_ms=0.4),
    Rate(work="W2", connections=16, rivals=JSON_RIVALS, at_least=2),
    Rate(work="W2", connections=64, rivals=JSON_RIVALS, at_least=2),
    RateOfBare(work="W3", connections=8, at_least=0.92),
    RateOfBare(work="W3", connections=16, at_least=0.92),
    Rate(work="W3", connections=8, rivals=("torchserve",), at_least=1.6),
    Rate(work="W3", connections=16, rivals=("torchserve",), at_least=1.6),
    Rate(work="W3", connections=8, rivals=("torchserve",), at_least=2.5, variant=Variant.AUTO),
    Rate(work="W3", connections=16, rivals=("torchserve",), at_least=2.5, variant=Variant.AUTO),
    Rate(work="W4", connections=16, rivals=("torchserve",), at_least=1.5),
    Rate(work="W5", connections=16, rivals=("torchserve",), at_least=1.5),
    FirstAnswer(work="W1", rival="torchserve"),
    FirstAnswer(work="W3", rival="torchserve"),
    FurtherWorker(work="W3", at_most_s=0.5),
    WorkerMemory(work="W3", rival="torchserve", at_most=1 / 3),
)


def judge(results: Results) -> list[Verdict]:
    """All targets, in their order."""
    return [target.judge(results) for target in TARGETS]


def _outcome(reached: bool | None) -> Outcome:  # noqa: FBT001  # None is the third
    if reached is None:
        return Outcome.UNKNOWN
    return Outcome.REACHED if reached else Outcome.MISSED
