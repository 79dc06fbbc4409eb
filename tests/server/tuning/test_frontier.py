from __future__ import annotations

from flambeau.tuning.candidate import Candidate
from flambeau.tuning.frontier import Point, pareto


def point(requests_per_s: float, latency_s: float, *, workers: int = 1) -> Point:
    return Point(
        candidate=Candidate(workers=workers),
        requests_per_s=requests_per_s,
        latency_s=latency_s,
    )


def test_only_what_no_other_point_beats_in_both_is_left() -> None:
    slow, middle, fast = point(100, 0.001), point(200, 0.002), point(300, 0.01)
    beaten = [point(150, 0.003), point(90, 0.001), point(300, 0.02)]
    assert pareto([fast, *beaten, slow, middle]) == [slow, middle, fast]


def test_of_equal_points_the_smaller_configuration_stays() -> None:
    assert pareto([point(1, 1, workers=4), point(1, 1, workers=2)]) == [point(1, 1, workers=2)]


def test_no_points_have_no_frontier() -> None:
    assert pareto([]) == []
