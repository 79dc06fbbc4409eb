"""How speed changes with the load's size, and what a swap costs, as data."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Requests at a fixed rate, answered or not in time for the next.

    Attributes:
        rate: Requests per second, well below what the server can do.
        num_requests: Sent.
        num_errors: Not answered with 200.
        p50_ms: Median from when a request was due to the whole answer.
        p99_ms: 99th percentile.
        max_ms: The slowest.
        late_p99_ms: How late the client itself was, which is part of the times above.
    """

    rate: float
    num_requests: int
    num_errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """One size of something.

    Attributes:
        size: Connections, bytes, models or workers.
        latency: At the same rate for all sizes.
        requests_per_s: As many as can be answered; None where nobody asked.
        num_errors: Not answered with 200 meanwhile.
        with_idle: The latency with so many connections that are open and say nothing; None too.
    """

    size: int
    latency: Latency
    requests_per_s: float | None = None
    num_errors: int = 0
    with_idle: Latency | None = None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Everything else equal, from small to large."""

    connections: list[Point]
    bodies: list[Point]
    models: list[Point]
    workers: list[Point]

    @property
    def num_errors(self) -> int:
        points = [*self.connections, *self.bodies, *self.models, *self.workers]
        latencies = [found for p in points for found in (p.latency, p.with_idle) if found]
        under_load = sum(point.num_errors for point in points)
        return under_load + sum(latency.num_errors for latency in latencies)


@dataclass(frozen=True, kw_only=True)
class SwapCost:
    """The time of requests at half load, in windows with swaps and without by turns.

    Attributes:
        num_swaps: Deployments, each of which replaced the default version.
        full_rate: Requests per second that the server can answer.
        quiet: Without swaps.
        swapping: While versions were replaced.
        num_wrong: Answered by a version that could not have been the default in between.
        mean_swap_s: From asking for a deployment to the old version's end.
    """

    num_swaps: int
    full_rate: float
    quiet: Latency
    swapping: Latency
    num_wrong: int
    mean_swap_s: float

    @property
    def ratio(self) -> float:
        return self.swapping.p99_ms / self.quiet.p99_ms


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent of growth: 1 when twice the size gives twice the value, 0 when it is flat."""
    logs = [math.log(size) for size in sizes]
    return statistics.linear_regression(logs, [math.log(value) for value in values]).slope


def steepest(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The largest exponent between neighbours."""
    pairs = zip(sizes, sizes[1:], values, values[1:])  # noqa: B905  # the rest has no neighbour
    return max(slope((a, b), (x, y)) for a, b, x, y in pairs)


def worst_fall(values: Sequence[float]) -> float:
    """The smallest of each value's ratio to the best of those before it; 1 when none falls."""
    best, worst = values[0], 1.0
    for value in values[1:]:
        worst = min(worst, value / best)
        best = max(best, value)
    return worst
