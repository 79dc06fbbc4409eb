from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from flambeau.config import MetricsMode
from flambeau.messages import MetricKind, MetricSample, MetricSpec
from flambeau.metrics_of_models import MAX_NAMES, MAX_SERIES, ModelMetricsBoard

MODEL = [("ModelName", "m"), ("Level", "Model")]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CALLS = MetricSpec(
    name="Calls", unit="count", kind=MetricKind.COUNTER, dimensions=["ModelName", "Level"]
)
SAMPLES = st.builds(
    MetricSample,
    name=TEXT | st.sampled_from(["Calls", "Calls_sum", "a", "a_sum", "flambeau_x", "QueueTime"]),
    unit=TEXT,
    kind=st.sampled_from(MetricKind),
    value=st.floats(),
    dimensions=st.lists(
        st.tuples(TEXT | st.sampled_from(["le", "Hostname", "__name__", "a-b", "a b"]), TEXT)
    ),
    request_ids=TEXT,
)


class Board:
    """A board, and what it dropped."""

    def __init__(
        self, *, auto_detect: bool = True, mode: MetricsMode = MetricsMode.PROMETHEUS
    ) -> None:
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.board = ModelMetricsBoard(
            [CALLS],
            auto_detect=auto_detect,
            taken=["QueueTime"],
            mode=mode,
            hostname="h",
            clock=lambda: 1234.5,
            dropped=lambda model, reason: self.dropped.update([(model, reason)]),
        )

    def record(self, *samples: MetricSample, model: str = "m") -> None:
        self.board.record(model, samples)

    def lines(self, name: str) -> list[str]:
        """The samples whose line begins so."""
        return [line for line in self.board.render(()).splitlines() if line.startswith(name)]


def sample(
    name: str,
    value: float = 1.0,
    dimensions: list[tuple[str, str]] | None = None,
    kind: MetricKind = MetricKind.COUNTER,
) -> MetricSample:
    return MetricSample(
        name=name,
        unit="ms",
        kind=kind,
        value=value,
        dimensions=MODEL if dimensions is None else dimensions,
        request_ids="r0",
    )


def test_a_listed_metric_gets_the_host_s_name() -> None:
    board = Board(auto_detect=False)
    board.record(sample("Calls"), sample("Calls", 2))
    assert board.board.render(()) == (
        "# HELP Calls Torchserve prometheus counter metric with unit: count\n"
        "# TYPE Calls counter\n"
        'Calls{ModelName="m",Level="Model",Hostname="h",} 3.0\n'
    )


def test_a_listed_metric_has_the_listed_kind() -> None:
    board = Board()
    board.record(
        sample("Calls", 1, kind=MetricKind.GAUGE), sample("Calls", 5, kind=MetricKind.GAUGE)
    )
    assert board.lines("Calls") == ['Calls{ModelName="m",Level="Model",Hostname="h",} 6.0']


def test_what_is_not_listed_is_dropped_unless_it_is_to_be_found_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    board = Board(auto_detect=False)
    board.record(sample("Mine"), sample("Mine"))
    assert board.dropped == {("m", "unlisted"): 2}
    assert len(caplog.records) == 1
    board = Board()
    board.record(sample("Mine", 2, [("Method", "x")], MetricKind.GAUGE))
    assert board.lines("# ")[-2:] == [
        "# HELP Mine Torchserve prometheus gauge metric with unit: Milliseconds",
        "# TYPE Mine gauge",
    ]
    assert board.lines("Mine") == ['Mine{Method="x",Hostname="h",} 2.0']


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (sample("Calls", 1, [("ModelName", "m")]), "dimensions"),
        (sample("Calls", -1), "value"),
        (sample("Calls", float("nan")), "value"),
        (sample("New", float("inf"), kind=MetricKind.HISTOGRAM), "value"),
        (sample("QueueTime"), "name"),
        (sample("flambeau_ready"), "name"),
        (sample("Mine", kind=MetricKind.GAUGE), "kind"),
        (sample("Calls_sum", kind=MetricKind.HISTOGRAM), ""),
    ],
)
def test_what_does_not_fit_is_counted_and_dropped(wrong: MetricSample, reason: str) -> None:
    board = Board()
    board.record(sample("Mine"))
    before = board.board.render(())
    board.record(wrong)
    assert board.dropped == ({("m", reason): 1} if reason else {})
    assert (board.board.render(()) == before) is bool(reason)


def test_names_are_made_fit_for_prometheus() -> None:
    board = Board()
    board.record(
        sample("2 fast-ones", 1, [("a-b", "1"), ("a b", "2"), ("Hostname", "x"), ("__c", "3")])
    )
    assert board.lines("_2") == ['_2_fast_ones{a_b="2",c="3",Hostname="h",} 1.0']


def test_the_order_of_dimensions_makes_no_other_series() -> None:
    board = Board()
    board.record(
        sample("Mine", 1, [("a", "1"), ("b", "2")]), sample("Mine", 1, [("b", "2"), ("a", "1")])
    )
    assert board.lines("Mine") == ['Mine{a="1",b="2",Hostname="h",} 2.0']


def test_too_many_series_become_one(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    for number in range(MAX_SERIES + 50):
        board.record(sample("Mine", 1, [("user", str(number)), *MODEL]))
    lines = board.lines("Mine")
    assert len(lines) == MAX_SERIES + 1
    assert lines[-1] == 'Mine{user="other",ModelName="m",Level="Model",Hostname="h",} 50.0'
    assert board.dropped == {("m", "series"): 50}
    assert len(caplog.records) == 1
    board.record(sample("Mine", 1, [("user", "0"), *MODEL]))  # known ones go on
    assert board.lines("Mine")[0].endswith(" 2.0")
    board.record(sample("Mine", 1, [("user", "new"), ("ModelName", "n")]), model="n")
    assert board.lines("Mine")[-1] == 'Mine{user="new",ModelName="n",Hostname="h",} 1.0'


def test_a_model_has_a_limited_number_of_metrics(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    for number in range(MAX_NAMES + 5):
        board.record(sample(f"Mine{number}"))
    assert len(board.lines("Mine")) == MAX_NAMES
    assert board.dropped == {("m", "names"): 5}
    assert len(caplog.records) == 1


@settings(deadline=None)
@given(st.lists(SAMPLES, max_size=12))
def test_whatever_handlers_emit_prometheus_can_read_the_page(samples: list[MetricSample]) -> None:
    board = Board()
    board.record(*samples)
    page = board.board.render(())
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for each in text_string_to_metric_families(page):
        for found in each.samples:
            labels = {name: value for name, value in found.labels.items() if value}
            key = (found.name, tuple(sorted(labels.items())))
            assert key not in seen
            seen.add(key)
            assert found.labels["Hostname"] == "h"


def test_in_the_log_a_value_is_a_line_with_its_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    board = Board(mode=MetricsMode.LOG)
    board.record(sample("Calls", 2), sample("Mine", 1.5, [("who", "x\ny")], MetricKind.GAUGE))
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (
            "flambeau.metrics.model",
            "Calls.count:2.0|#ModelName:m,Level:Model|#hostname:h,requestID:r0,timestamp:1234",
        ),
        (
            "flambeau.metrics.model",
            "Mine.Milliseconds:1.5|#who:x y|#hostname:h,requestID:r0,timestamp:1234",
        ),
    ]
    assert board.board.render(()) == ""
