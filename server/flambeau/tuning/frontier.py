"""Which measurements nobody beats: more requests per second cost latency, and this is the price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flambeau.tuning.candidate import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One configuration under one load.

    Attributes:
        candidate: The configuration.
        requests_per_s: Answered, each with 200.
        latency_s: The objective's highest percentile.
    """

    candidate: Candidate
    requests_per_s: float
    latency_s: float


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both, slowest load first.

    Of points with equal figures the smaller configuration stays.
    """
    front: list[Point] = []
    ordered = sorted(points, key=lambda p: (-p.requests_per_s, p.latency_s, p.candidate.size))
    for point in ordered:
        if not front or point.latency_s < front[-1].latency_s:
            front.append(point)
    return front[::-1]
