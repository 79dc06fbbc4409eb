"""The judges of the benchmarks: they must find what is wrong, or their zeros mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import REPEATABLE, Run, compare
from benchmarks.figures import percentile
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
