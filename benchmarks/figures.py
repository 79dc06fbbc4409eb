"""What `python -m benchmarks.run` finds, as data; `report.py` makes a page of it.

Saved as JSON with the field names as keys, so that a run of today can be held against one of then.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.figures_budget import Budget
from benchmarks.figures_growth import Growth, SwapCost
from benchmarks.figures_start import Start

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent / "results"
QUOTED = HERE / "quoted.json"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it was measured, and with which versions."""

    cpu: str
    num_cpus: int
    memory_gib: float
    system: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Two runs of one config with one seed.

    Attributes:
        config: Path of the config file.
        num_epochs: Epochs of each run.
        val_accuracy: Of the last epoch, 0 to 1; the same in both when `identical`.
        best_val_accuracy: Of the best epoch.
        final_loss: Mean training loss of the last epoch, first run, as `float.hex`.
        repeated_loss: The same of the second run.
        identical: Whether losses and accuracies of all epochs agree in every bit.
        durations_s: Wall clock of each run, start of Python included.
    """

    config: str
    num_epochs: int
    val_accuracy: float
    best_val_accuracy: float
    final_loss: str
    repeated_loss: str
    identical: bool
    durations_s: list[float]


@dataclass(frozen=True, kw_only=True)
class Bare:
    """The program called in a loop, nothing around it.

    Attributes:
        batch_size: Samples per call.
        samples_per_s: Samples through the model per second.
        p50_ms: Median time of one call.
        p99_ms: 99th percentile.
    """

    batch_size: int
    samples_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """The same model behind the server, under so many connections for some seconds.

    Attributes:
        connections: Each sends its next request when the answer is there.
        num_requests: Answered.
        num_errors: Answered with 400 or more, timed out, or broken off.
        requests_per_s: Answered per second.
        p50_ms: Median from sending to the whole answer.
        p99_ms: 99th percentile.
    """

    connections: int
    num_requests: int
    num_errors: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One pass over everything that is compared, so that a slow minute hits all alike."""

    bare: list[Bare]
    loads: list[Load]


@dataclass(frozen=True, kw_only=True)
class Swaps:
    """Versions replaced while clients ask.

    Attributes:
        connections: Clients that ask one after the other, all the time.
        num_swaps: Deployments, each of which replaced the default version.
        num_requests: Sent, and all waited for.
        num_failed: Not answered with 200.
        num_wrong: Answered by a version that could not have been the default in between.
        versions_seen: How many answers came from each version.
        p50_ms: Median from sending to the whole answer.
        p99_ms: 99th percentile.
        max_ms: The slowest.
        duration_s: From the first request to the last answer.
    """

    connections: int
    num_swaps: int
    num_requests: int
    num_failed: int
    num_wrong: int
    versions_seen: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """One run of all benchmarks.

    Attributes:
        measured_on: `YYYY-MM-DD`.
        round_s: Seconds of each measurement of load.
        batch_size: Most requests per handler call in the load rounds.
        swaps: Replacements under a full load, to see that nothing is lost.
        half_load: What swaps cost; None where nobody asked, as for the rest.
        budgets: One per number of connections; empty where py-spy may not look.
    """

    measured_on: str
    machine: Machine
    training: Training
    rounds: list[Round]
    round_s: float
    batch_size: int
    swaps: Swaps
    half_load: SwapCost | None = None
    growth: Growth | None = None
    start: Start | None = None
    budgets: list[Budget] = field(default_factory=list[Budget])


def save(results: Results, path: Path) -> None:
    """Write it as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


def read(path: Path) -> Results:
    """Read what `save` wrote.

    Raises:
        msgspec.ValidationError: It is something else, or from another version.
    """
    return msgspec.json.decode(path.read_bytes(), type=Results)


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that this share of all is not above; `values` has at least one."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def median_bare(rounds: Sequence[Round], batch_size: int) -> Bare:
    """Each figure's median over the rounds."""
    found = [bare for one in rounds for bare in one.bare if bare.batch_size == batch_size]
    return Bare(
        batch_size=batch_size,
        samples_per_s=statistics.median(b.samples_per_s for b in found),
        p50_ms=statistics.median(b.p50_ms for b in found),
        p99_ms=statistics.median(b.p99_ms for b in found),
    )


def median_load(rounds: Sequence[Round], connections: int) -> Load:
    """Each figure's median over the rounds; requests and errors are summed."""
    found = [load for one in rounds for load in one.loads if load.connections == connections]
    return Load(
        connections=connections,
        num_requests=sum(load.num_requests for load in found),
        num_errors=sum(load.num_errors for load in found),
        requests_per_s=statistics.median(load.requests_per_s for load in found),
        p50_ms=statistics.median(load.p50_ms for load in found),
        p99_ms=statistics.median(load.p99_ms for load in found),
    )
