from __future__ import annotations

import math

from flambeau.tuning.slo import Slo, Target
from flambeau.tuning.window import Window, merged

P99_20MS = Slo((Target(99, 0.02),))


def window(*latencies_s: float, num_failed: int = 0, is_cut_short: bool = False) -> Window:
    return Window(
        seconds=2.0, latencies_s=latencies_s, num_failed=num_failed, is_cut_short=is_cut_short
    )


def test_a_percentile_is_the_latency_that_so_many_do_not_exceed() -> None:
    hundred = window(*(place / 1000 for place in range(1, 101)))
    assert hundred.percentile_s(50) == 0.05
    assert hundred.percentile_s(99) == 0.099


def test_of_few_requests_the_slowest_counts() -> None:
    assert window(0.01, 0.03).percentile_s(99) == 0.03
    assert not window(0.01, 0.03).meets(P99_20MS)


def test_a_request_that_failed_took_forever() -> None:
    assert window(0.01, num_failed=1).percentile_s(99) == math.inf
    assert window(0.01, num_failed=1).percentile_s(50) == 0.01
    assert window().percentile_s(50) == math.inf


def test_an_objective_is_met_only_if_every_request_was_answered() -> None:
    fast = [0.01] * 1000
    assert window(*fast).meets(P99_20MS)
    assert not window(*fast, num_failed=1).meets(P99_20MS)
    assert not window(*fast, is_cut_short=True).meets(P99_20MS)
    assert not window().meets(P99_20MS)


def test_what_several_clients_saw_is_one_measurement() -> None:
    both = merged([window(0.01, 0.03), window(0.02, num_failed=1, is_cut_short=True)])
    assert both.latencies_s == [0.01, 0.02, 0.03]
    assert both.requests_per_s == 1.5
    assert (both.num_failed, both.is_cut_short) == (1, True)
