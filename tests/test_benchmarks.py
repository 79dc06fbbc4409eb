"""The judges of the benchmarks: they must find what is wrong, or their zeros mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import open_loop, report_budget, report_growth, targets
from benchmarks.accuracy import REPEATABLE, Run, compare
from benchmarks.budget import Used, split
from benchmarks.figures import Load, percentile
from benchmarks.figures_growth import Growth, Latency, Point, SwapCost, slope, steepest, worst_fall
from benchmarks.sampling import CpuTime, parse_stack
from benchmarks.stages import Stage, stage_of
from benchmarks.swap import Answer, Flip, could_answer, summarise

FLIPS = [
    Flip(version=1, after=0.0, before=0.0),
    Flip(version=2, after=10.0, before=11.0),
    Flip(version=3, after=20.0, before=21.0),
]


@pytest.mark.parametrize(
    ("sent_at", "answered_at", "versions"),
    [
        (5.0, 6.0, {1}),
        (9.0, 10.5, {1, 2}),
        (12.0, 13.0, {2}),
        (10.5, 20.5, {1, 2, 3}),
        (11.5, 20.5, {2, 3}),
        (30.0, 31.0, {3}),
    ],
)
def test_only_versions_that_were_the_default_in_between_could_answer(
    sent_at: float, answered_at: float, versions: set[int]
) -> None:
    assert could_answer(FLIPS, sent_at=sent_at, answered_at=answered_at) == versions


def test_an_answer_of_the_old_version_after_the_swap_is_wrong() -> None:
    answers = [
        Answer(sent_at=12.0, answered_at=12.1, version=2),
        Answer(sent_at=12.0, answered_at=12.1, version=1),
    ]
    assert summarise(answers, FLIPS, connections=1).num_wrong == 1


def test_an_answer_of_the_new_version_before_the_swap_is_wrong() -> None:
    answers = [Answer(sent_at=8.0, answered_at=9.0, version=2)]
    assert summarise(answers, FLIPS, connections=1).num_wrong == 1


def test_a_request_without_an_answer_is_failed_and_not_wrong() -> None:
    answers = [Answer(sent_at=8.0, answered_at=9.0, version=None)]
    found = summarise(answers, FLIPS, connections=1)
    assert (found.num_failed, found.num_wrong, found.num_requests) == (1, 0, 1)


def test_a_version_that_never_was_is_wrong() -> None:
    answers = [Answer(sent_at=30.0, answered_at=31.0, version=7)]
    found = summarise(answers, FLIPS, connections=1)
    assert (found.num_wrong, found.versions_seen["7"]) == (1, 1)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99)) == (50.0, 99.0)
    assert percentile([3.0], 99) == 3.0


def test_training_that_differs_in_the_last_bit_is_not_identical(tmp_path: Path) -> None:
    row: dict[str, str] = dict.fromkeys(REPEATABLE, "0.1")
    last_bit = row | {"val_loss": "0.10000000000000002"}
    runs = [Run(directory=tmp_path, duration_s=1.0, rows=[r]) for r in (row, last_bit)]
    assert compare(runs[0], runs[0]).identical
    assert not compare(*runs).identical


def test_growth_is_told_by_its_exponent() -> None:
    sizes = [1.0, 10.0, 100.0]
    assert slope(sizes, [2.0, 20.0, 200.0]) == pytest.approx(1)
    assert slope(sizes, [5.0, 5.0, 5.0]) == pytest.approx(0)
    assert steepest(sizes, [1.0, 1.0, 100.0]) == pytest.approx(2)


def test_a_fall_is_seen_from_the_best_before_it() -> None:
    assert worst_fall([1.0, 4.0, 3.0, 2.0]) == 0.5
    assert worst_fall([1.0, 2.0, 3.0]) == 1.0


def _latency(p50_ms: float) -> Latency:
    return Latency(
        rate=8.0,
        num_requests=100,
        num_errors=0,
        p50_ms=p50_ms,
        p99_ms=3 * p50_ms,
        max_ms=4 * p50_ms,
        late_p99_ms=0.1,
    )


def _points(times_ms: dict[int, float], requests_per_s: float = 100.0) -> list[Point]:
    return [
        Point(
            size=size, latency=_latency(ms), requests_per_s=requests_per_s, with_idle=_latency(ms)
        )
        for size, ms in times_ms.items()
    ]


def test_a_target_that_is_missed_is_told_apart() -> None:
    growth = Growth(
        connections=_points({1: 1.0, 1024: 1.1}),
        bodies=_points({2**16: 1.0, 2**18: 3.0, 2**20: 60.0}),
        models=_points({1: 1.0, 100: 5.0}),
        workers=_points({1: 1.0, 2: 1.0}),
    )
    missed = [found.what for found in targets.of_growth(growth) if not found.is_reached]
    assert len(missed) == 3
    assert [("bytes" in what, "models" in what) for what in missed] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert "| 256 KiB | 3.00 | 9.00 | 87.4 |" in report_growth.render(growth)


def test_the_cost_of_swaps_is_a_ratio_of_percentiles() -> None:
    cost = SwapCost(
        num_swaps=20,
        full_rate=16.0,
        quiet=_latency(1.0),
        swapping=_latency(3.0),
        num_wrong=0,
        mean_swap_s=0.5,
    )
    (target,) = targets.of_swaps(cost)
    assert (target.found, target.is_reached) == ("3.00", False)


FRONT = "run (/lib/asyncio/runners.py:118)"
WORKER = "serve_batches (/lib/flambeau/batch_loops.py:40)"


@pytest.mark.parametrize(
    ("stack", "stage"),
    [
        (FRONT, Stage.LOOP),
        (f"{FRONT};Batcher._dispatch (/lib/flambeau/batcher.py:1)", Stage.QUEUE),
        (f"{FRONT};WorkerChannel.send (/lib/flambeau/channel.py:1);write (/x.py:2)", Stage.WIRE),
        (f"{WORKER};H.inference (/tmp/h.py:3);_call_impl (/lib/torch/m.py:9)", Stage.MODEL),
        (f"{WORKER};ModelInstance.encode (/lib/flambeau/instance.py:3)", Stage.ENCODE),
        ("f (/elsewhere.py:1)", Stage.OTHER),
    ],
)
def test_the_innermost_frame_with_a_rule_decides_the_stage(stack: str, stage: Stage) -> None:
    assert stage_of(parse_stack(f"{stack} 7").stack) is stage


def test_the_parts_of_a_budget_sum_to_the_whole() -> None:
    load = Load(
        connections=64, num_requests=1000, num_errors=0, requests_per_s=500, p50_ms=1, p99_ms=2
    )
    used = Used(
        load=load,
        cpu={
            "front": CpuTime(main_s=1.0, others_s=0.0),
            "worker": CpuTime(main_s=0.5, others_s=0.5),
        },
        client_s=0.25,
        idle_s=1.0,
    )
    stacks = {
        "front": [parse_stack(f"{FRONT} 3"), parse_stack("f (/elsewhere.py:1) 1")],
        "worker": [parse_stack(f"{WORKER} 5")],
    }
    budget = split(used, stacks, num_cores=2)
    assert budget.us_of("front", Stage.LOOP) == pytest.approx(750)
    assert budget.us_of("worker", Stage.HELPERS) == pytest.approx(500)
    assert budget.whole_us == pytest.approx(4000)
    assert budget.rest_us == pytest.approx(750)
    assert "| **whole** |  | **4,000.0** |" in report_budget.render([budget])


def test_a_request_that_had_to_wait_for_a_connection_is_charged_for_it() -> None:
    waited = open_loop.Answered(due_at=1.0, sent_at=3.0, answered_at=3.5, status=200, body=b"")
    broken = open_loop.Answered(due_at=2.0, sent_at=3.0, answered_at=3.5, status=0, body=b"")
    found = open_loop.summarise([waited, broken], rate=1.0)
    assert (found.max_ms, found.late_p99_ms, found.num_errors) == (2500.0, 2000.0, 1)
