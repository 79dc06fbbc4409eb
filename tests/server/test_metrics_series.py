from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from flambeau.messages import MetricKind, MetricSpec
from flambeau.metrics_series import BUCKETS, Family

# what a message between processes can carry
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def family(kind: MetricKind, *dimensions: str, unit: str = "ms") -> Family:
    return Family(MetricSpec(name="A", unit=unit, kind=kind, dimensions=list(dimensions)))


def test_a_counter_keeps_its_name_and_a_comma_after_the_last_label() -> None:
    counter = family(MetricKind.COUNTER, "Level", "Hostname", unit="Count")
    series = counter.series(["Host", "h"])
    series.record(1)
    series.record(2)
    assert counter.render() == (
        "# HELP A Torchserve prometheus counter metric with unit: Count\n"
        "# TYPE A counter\n"
        'A{Level="Host",Hostname="h",} 3.0\n'
    )


def test_a_gauge_has_the_last_value() -> None:
    gauge = family(MetricKind.GAUGE)
    for value in (1.0, 0.5, math.nan, math.inf):
        gauge.series([]).record(value)
    assert gauge.render().endswith("\nA +Inf\n")


def test_a_histogram_counts_what_is_at_most_so_large() -> None:
    histogram = family(MetricKind.HISTOGRAM, "ModelName")
    for value in (0.001, 0.005, 0.006, 1.0, 99_999.0):
        histogram.series(["m"]).record(value)
    lines = histogram.render().splitlines()
    assert lines[2:4] == [
        'A_bucket{ModelName="m",le="0.005",} 2.0',
        'A_bucket{ModelName="m",le="0.01",} 3.0',
    ]
    assert lines[-3:] == [
        'A_bucket{ModelName="m",le="+Inf",} 5.0',
        'A_count{ModelName="m",} 5.0',
        'A_sum{ModelName="m",} 100000.012',
    ]
    assert len(lines) == 2 + len(BUCKETS) + 1 + 2


def test_a_family_without_series_says_that_it_exists() -> None:
    assert family(MetricKind.GAUGE).render().endswith("# TYPE A gauge\n")


def test_names_choose_samples() -> None:
    histogram = family(MetricKind.HISTOGRAM)
    histogram.series([]).record(1)
    assert histogram.render(["A_sum", "B"]).splitlines()[2:] == ["A_sum 1.0"]
    assert histogram.render(["A"]) == ""


def test_a_series_can_be_forgotten() -> None:
    gauge = family(MetricKind.GAUGE, "x")
    gauge.series(["1"]).record(5)
    gauge.remove((("x", "1"),))
    gauge.remove((("x", "2"),))
    assert "5.0" not in gauge.render()


@settings(deadline=None)
@given(values=st.tuples(TEXT, TEXT), unit=TEXT)
def test_no_text_breaks_out_of_its_quotes(values: tuple[str, str], unit: str) -> None:
    counter = family(MetricKind.COUNTER, "a", "b", unit=unit)
    counter.series(values).record(1)
    head, _, line = counter.render().rstrip("\n").rpartition("\n")
    assert head.count("\n") == 1
    assert line.startswith('A{a="')
    assert line.endswith('",} 1.0')
    (read,) = text_string_to_metric_families(counter.render())
    (sample,) = read.samples
    assert sample.labels == {"a": values[0], "b": values[1]}
