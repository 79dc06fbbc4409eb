"""What the figures are held against: reached or missed, with the number that decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.figures_growth import slope, steepest, worst_fall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Results
    from benchmarks.figures_growth import Growth, Point, SwapCost
    from benchmarks.figures_start import Start

LARGE_BODY_BYTES = 2**16  # below it, a request's own cost hides that of its bytes
# what repeated measurements of one thing differ by here
NOISE = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One line of the table.

    Attributes:
        what: What is measured.
        limit: In words, with the number.
        found: The number.
        is_reached: Whether it keeps within.
    """

    what: str
    limit: str
    found: str
    is_reached: bool

    @classmethod
    def at_most(cls, what: str, limit: float, found: float, *, unit: str = "") -> Target:
        return cls(
            what=what,
            limit=f"<= {limit:g}{unit}",
            found=f"{found:.2f}{unit}",
            is_reached=found <= limit,
        )

    @classmethod
    def at_least(cls, what: str, limit: float, found: float, *, unit: str = "") -> Target:
        return cls(
            what=what,
            limit=f">= {limit:g}{unit}",
            found=f"{found:.2f}{unit}",
            is_reached=found >= limit,
        )


def of(results: Results) -> list[Target]:
    """All that the results can be held against."""
    found: list[Target] = []
    if results.half_load is not None:
        found += of_swaps(results.half_load)
    if results.start is not None:
        found += of_start(results.start)
    if results.growth is not None:
        found += of_growth(results.growth)
    return found


def of_growth(growth: Growth) -> list[Target]:
    """Linear in bytes, flat in models, no cliff anywhere."""
    large = [point for point in growth.bodies if point.size >= LARGE_BODY_BYTES]
    large = large if len(large) > 1 else growth.bodies
    sizes = [float(point.size) for point in large]
    times = [point.latency.p50_ms for point in large]
    first, last = growth.models[0], growth.models[-1]
    of_connections = [point.requests_per_s or 0.0 for point in growth.connections]
    of_workers = [point.requests_per_s or 0.0 for point in growth.workers]
    idle = [point.with_idle for point in growth.connections if point.with_idle]
    return [
        Target.at_most(
            "median latency by bytes: exponent over all large bodies", 1.05, slope(sizes, times)
        ),
        Target.at_most(
            "median latency by bytes: steepest exponent between neighbours, 64 KiB and up",
            1.25,
            steepest(sizes, times),
        ),
        Target.at_most(
            f"median latency with {last.size} models registered, to that with {first.size}",
            NOISE,
            last.latency.p50_ms / first.latency.p50_ms,
        ),
        Target.at_most(
            f"median latency with {growth.connections[-1].size:,} idle connections, to that with "
            f"{growth.connections[0].size}",
            NOISE,
            idle[-1].p50_ms / idle[0].p50_ms,
        ),
        Target.at_least(
            f"requests/s with {_span(growth.connections)} connections, to the best with fewer",
            0.75,
            worst_fall(of_connections),
        ),
        Target.at_least(
            f"requests/s with {_span(growth.workers)} workers, to the best with fewer",
            0.75,
            worst_fall(of_workers),
        ),
    ]


def _span(points: Sequence[Point]) -> str:
    return f"{points[0].size} to {points[-1].size:,}"


def of_start(start: Start) -> list[Target]:
    """One more worker is soon there."""
    what = "seconds until one more worker is ready, ResNet-18"
    return [Target.at_most(what, 0.5, start.extra_worker_s, unit=" s")]


def of_swaps(cost: SwapCost) -> list[Target]:
    """Swaps are not felt."""
    what = f"99th percentile during {cost.num_swaps} swaps at half load, to that without"
    return [Target.at_most(what, 2.0, cost.ratio)]
