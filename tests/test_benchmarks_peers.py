"""The judges of the comparison with other servers, and the page that they write."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.figures import Bare, Load, Machine
from benchmarks.peers import page, run
from benchmarks.peers.gate import difference
from benchmarks.peers.peer import SERVICES, Variant
from benchmarks.peers.plan import Plan
from benchmarks.peers.results import (
    Absence,
    Results,
    Scaling,
    Start,
    Subject,
    Timed,
    TimedBare,
    read,
    save,
)
from benchmarks.peers.targets import Outcome, Rate, Verdict, judge

LOAD = Load(
    connections=64, num_requests=1, num_errors=0, requests_per_s=1.0, p50_ms=1.0, p99_ms=2.0
)
MOSEC_AT_64 = Rate(work="W1", connections=64, rivals=("mosec",), at_least=1.5)


def _results() -> Results:
    machine = Machine(cpu="a CPU", num_cpus=2, memory_gib=8, system="Linux", versions={"wrk": "4"})
    names = {"flambeau": "Flambeau", "mosec": "mosec", "torchserve": "TorchServe"}
    return Results(
        measured_on="2026-01-01",
        machine=machine,
        num_rounds=3,
        round_s=3,
        num_threads=1,
        max_batch_size=16,
        subjects=[
            Subject(name=name, title=title, version="1", settings="defaults")
            for name, title in names.items()
        ],
    )


def _timed(peer: str, *rates: float, variant: Variant = Variant.TUNED) -> list[Timed]:
    return [
        Timed(
            round=number,
            work="W1",
            peer=peer,
            variant=variant,
            load=replace(LOAD, requests_per_s=rate),
            cpu_us=100,
        )
        for number, rate in enumerate(rates, start=1)
    ]


def _verdict(results: Results, measure: str) -> Verdict:
    return next(each for each in judge(results) if each.measure.startswith(measure))


@pytest.mark.parametrize(
    ("ours", "outcome"), [(15_000.0, Outcome.REACHED), (14_990.0, Outcome.MISSED)]
)
def test_medians_over_the_rounds_decide(ours: float, outcome: Outcome) -> None:
    results = _results()
    results.timed = _timed("flambeau", 1.0, ours, 90_000.0) + _timed("mosec", 1.0, 10_000, 99_000)
    assert MOSEC_AT_64.judge(results).outcome is outcome


def test_the_fastest_of_several_peers_is_the_one_to_beat() -> None:
    results = _results()
    results.timed = _timed("flambeau", 100) + _timed("mosec", 10) + _timed("torchserve", 60)
    target = Rate(work="W1", connections=64, rivals=("mosec", "torchserve"), at_least=2)
    verdict = target.judge(results)
    assert verdict.outcome is Outcome.MISSED
    assert "1.67 x" in verdict.found
    assert "TorchServe" in verdict.found


@pytest.mark.parametrize(
    ("rates", "outcome"), [((10, 10), Outcome.UNKNOWN), ((10, 10, 90), Outcome.REACHED)]
)
def test_a_round_with_errors_does_not_count(rates: tuple[float, ...], outcome: Outcome) -> None:
    results = _results()
    results.timed = _timed("flambeau", 100, 100) + _timed("mosec", *rates)
    broken = results.timed[-1]
    results.timed[-1] = replace(broken, load=replace(broken.load, num_errors=1))
    assert MOSEC_AT_64.judge(results).outcome is outcome
    assert f"1 of {len(rates)} rounds failed" in page.render(results)


def test_a_target_without_figures_is_not_reached() -> None:
    assert {each.outcome for each in judge(_results())} == {Outcome.UNKNOWN}


def test_latency_is_held_against_the_bare_call() -> None:
    results = _results()
    one = Bare(batch_size=1, samples_per_s=5000, p50_ms=0.2, p99_ms=0.3)
    results.bare = [TimedBare(round=1, work="W1", form="frozen", bare=one)]
    load = replace(LOAD, connections=1, p50_ms=0.5)
    results.timed = [replace(each, load=load) for each in _timed("flambeau", 1)]
    verdict = _verdict(results, "p50 at 1 connection")
    bare = next(each for each in judge(results) if "bare call" in each.wanted)
    assert verdict.work == "W1"
    assert bare.outcome is Outcome.REACHED
    assert "+ 0.30 ms" in bare.found


def test_starts_and_further_workers_are_judged() -> None:
    results = _results()
    for peer, seconds, mib in (("flambeau", 2.0, 50), ("torchserve", 6.0, 300)):
        results.starts.append(Start(round=1, work="W3", peer=peer, seconds=seconds))
        results.scalings += [
            Scaling(
                work="W3",
                peer=peer,
                num_workers=count,
                seconds=0.0 if count == 1 else seconds,
                pss_bytes=(400 + mib * count) << 20,
            )
            for count in (1, 2, 3)
        ]
    assert _verdict(results, "command to first right answer, W3").outcome is Outcome.REACHED
    assert _verdict(results, "a further worker ready").outcome is Outcome.MISSED
    memory = _verdict(results, "PSS of a further worker")
    assert memory.outcome is Outcome.REACHED
    assert "50 MiB to 300 MiB" in memory.found


def test_the_page_names_who_took_no_part_and_why() -> None:
    results = _results()
    results.timed = _timed("flambeau", 100) + _timed("mosec", 50)
    results.absences = [
        Absence(work="W1", peer="torchserve", variant=Variant.TUNED, reason="there is no Java")
    ]
    text = page.render(results)
    assert "TorchServe took no part in W1: there is no Java" in text
    assert "| 64 | mosec | 50.0 (50.0 to 50.0) | 1.00 | 2.00 | 100 | 2.00 x |" in text


def test_the_page_is_of_the_last_run() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(page.last_results())


def test_results_survive_being_saved(tmp_path: Path) -> None:
    results = _results()
    results.timed = _timed("flambeau", 1, 2, variant=Variant.AUTO)
    save(results, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("answer", "expected", "wrong"),
    [
        ([0.1, 0.9], [0.1, 0.9], None),
        ([[0.1, 0.90001]], [0.1, 0.9], None),
        ([0.1, 0.91], [0.1, 0.9], "0.91, expected 0.9"),
        ([0.9, 0.1], [0.1, 0.9], "largest number is not where"),
        ([0.9], [0.1, 0.9], "1 numbers, expected 2"),
        ("no", [0.1, 0.9], "0 numbers, expected 2"),
        ({"b": 0.7}, {"a": 0.3, "b": 0.7}, None),
        ({"a": 0.3}, {"a": 0.3, "b": 0.7}, "best label is 'a'"),
        ({"b": 0.7, "c": 0.1}, {"a": 0.3, "b": 0.7}, "expected labels"),
        ({}, {"a": 0.3}, "expected labels"),
    ],
)
def test_only_right_answers_pass_the_gate(
    answer: object, expected: object, wrong: str | None
) -> None:
    found = difference(answer, expected, tolerance=1e-3)
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def test_other_numerics_must_agree_on_the_best_class() -> None:
    assert difference([0.2, 0.8], [0.1, 0.9], tolerance=1e-3, only_top=True) is None
    assert difference([0.6, 0.4], [0.1, 0.9], tolerance=1e-3, only_top=True) is not None


def test_flambeau_is_measured_whoever_else_is() -> None:
    bouts = Plan(peers=("flambeau", "mosec"), works=("W1", "W4")).bouts()
    assert [bout.work.name for bout in bouts] == ["W1", "W4"]
    assert {entry.peer for bout in bouts for entry in bout.entries} == {"flambeau", "mosec"}


def test_a_misspelt_peer_is_refused() -> None:
    with pytest.raises(SystemExit, match="there are no peers torchsreve; use flambeau, "):
        run.main(["--only", "torchsreve"])


@pytest.mark.parametrize("path", sorted(SERVICES.glob("*.py")), ids=lambda path: path.stem)
def test_services_are_python_that_the_oldest_interpreter_reads(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
