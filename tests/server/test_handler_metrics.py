from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from flambeau.handler_metric import Dimension, HandlerMetric
from flambeau.handler_metrics import (
    MAX_SAMPLES,
    MetricsCache,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
)
from flambeau.messages import MetricKind, MetricSample, MetricSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = [("ModelName", "m"), ("Level", "Model")]


def cache(*specs: MetricSpec, auto_detect: bool = True) -> MetricsCache:
    metrics = MetricsCache(specs, model_name="m", auto_detect=auto_detect)
    metrics.set_request_ids({0: "r0", 1: "r1"})
    return metrics


def spec(name: str, dimensions: Sequence[str], kind: MetricKind = MetricKind.COUNTER) -> MetricSpec:
    return MetricSpec(name=name, unit="count", kind=kind, dimensions=list(dimensions))


def only(metrics: MetricsCache) -> MetricSample:
    (sample,) = metrics.take()
    return sample


def test_each_call_has_its_kind_and_unit() -> None:
    metrics = cache()
    metrics.add_counter("a", 1)
    metrics.add_time("b", 2.5)
    metrics.add_time("c", 2, unit="s", metric_type=MetricKind.HISTOGRAM)
    metrics.add_size("d", 3)
    metrics.add_size("e", 3, None, "kB")
    metrics.add_percent("f", 50)
    metrics.add_metric("g", 4, "km")
    assert [(s.name, s.value, s.unit, s.kind.value) for s in metrics.take()] == [
        ("a", 1, "Count", "counter"),
        ("b", 2.5, "Milliseconds", "gauge"),
        ("c", 2, "Seconds", "histogram"),
        ("d", 3, "Megabytes", "gauge"),
        ("e", 3, "Kilobytes", "gauge"),
        ("f", 50, "Percent", "gauge"),
        ("g", 4, "km", "counter"),
    ]
    assert metrics.take() == []


def test_the_model_and_the_level_are_added_to_the_handler_s_dimensions() -> None:
    metrics = cache()
    metrics.add_counter("a", 1, dimensions=[Dimension("Method", "preprocess")])
    assert only(metrics).dimensions == [("Method", "preprocess"), *MODEL]
    given = [Dimension("ModelName", "mine"), Dimension("Level", "Host")]
    metrics.add_counter("b", 1, dimensions=given)
    assert only(metrics).dimensions == [("ModelName", "mine"), ("Level", "Host")]
    metrics.add_error("c", 1)
    assert dict(only(metrics).dimensions) == {"ModelName": "m", "Level": "Error"}


def test_a_list_of_dimensions_is_left_as_it_was() -> None:
    metrics = cache()
    dimensions = [Dimension("Method", "preprocess")]
    for _ in range(2):
        metrics.add_counter("a", 1, dimensions=dimensions)
    assert dimensions == [Dimension("Method", "preprocess")]
    assert len(metrics.take()) == 2


def test_the_place_in_the_batch_becomes_the_request_s_id() -> None:
    metrics = cache()
    metrics.add_counter("a", 1, 1)
    metrics.add_counter("a", 1)
    metrics.add_counter("a", 1, 7)
    assert [sample.request_ids for sample in metrics.take()] == ["r1", "r0,r1", "r0,r1"]
    metrics.set_request_ids(None)
    metrics.add_counter("a", 1, 0)
    assert only(metrics).request_ids == ""


@pytest.mark.parametrize(
    ("arguments", "unit", "request_ids"),
    [
        (("km",), "km", "r0,r1"),
        (("km", 1), "km", "r1"),
        ((1, "km"), "km", "r1"),
        ((None, "km"), "km", "r0,r1"),
        ((0,), "unit", "r0"),
        ((), "unit", "r0,r1"),
    ],
)
def test_both_orders_of_unit_and_idx_are_understood(
    arguments: tuple[int | str | None, ...], unit: str, request_ids: str
) -> None:
    metrics = cache()
    metrics.add_metric("distance", 3, *arguments)  # type: ignore[arg-type]  # any mixture
    sample = only(metrics)
    assert (sample.unit, sample.request_ids) == (unit, request_ids)


def test_wrong_units_are_value_errors() -> None:
    with pytest.raises(ValueError, match="use one of ms, s"):
        cache().add_time("a", 1, unit="min")
    with pytest.raises(ValueError, match="use one of MB, kB, GB, B"):
        cache().add_size("a", 1, unit="TB")


def test_arguments_of_other_types_are_refused() -> None:
    metrics = cache()
    with pytest.raises(MetricsCacheTypeError):
        metrics.add_metric_to_cache("a", 5)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(MetricsCacheTypeError):
        metrics.get_metric("a", "counter")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(TypeError):
        metrics.add_metric("a", 1, "km", "ms")
    with pytest.raises(ValueError, match="list of Dimension"):
        metrics.add_counter("a", 1, dimensions="ModelName")  # type: ignore[arg-type]  # as above


def test_values_are_given_in_the_order_of_the_metric_s_dimensions() -> None:
    metrics = cache()
    metric = metrics.add_metric_to_cache("a", "ms", ["Method", "ModelName"], MetricKind.HISTOGRAM)
    assert metrics.take() == []
    metric.add_or_update(2.5, ["inference", "m"], "r9")
    assert only(metrics) == MetricSample(
        name="a",
        unit="Milliseconds",
        kind=MetricKind.HISTOGRAM,
        value=2.5,
        dimensions=[("Method", "inference"), ("ModelName", "m")],
        request_ids="r9",
    )
    metric.update(3, "r8", [Dimension("Method", "postprocess")])
    assert only(metrics).dimensions == [("Method", "postprocess")]
    assert metrics.get_metric("a", MetricKind.HISTOGRAM) is metric


def test_an_unknown_metric_is_a_key_error() -> None:
    metrics = cache(spec("listed", []))
    assert metrics.get_metric("listed").metric_name == "listed"
    with pytest.raises(MetricsCacheKeyError, match="call add_metric_to_cache"):
        metrics.get_metric("unheard_of")
    with pytest.raises(KeyError):
        metrics.get_metric("listed", MetricKind.GAUGE)
    metrics.add_percent("emitted", 5)
    assert metrics.get_metric("emitted", MetricKind.GAUGE).unit == "Percent"


@pytest.mark.parametrize(
    ("value", "values"),
    [(-1, ["x"]), (float("nan"), ["x"]), (float("inf"), ["x"]), (1, []), ("much", ["x"])],
)
def test_what_cannot_be_counted_is_logged_and_dropped(
    value: float, values: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    metrics = cache()
    metrics.add_metric_to_cache("a", "count", ["Method"]).add_or_update(value, values)
    assert metrics.take() == []
    assert "the value is dropped" in caplog.text


def test_a_listed_metric_has_the_dimensions_and_kind_that_are_listed() -> None:
    metrics = cache(
        spec("plain", []),
        spec("reversed", ["Level", "ModelName"], MetricKind.GAUGE),
        spec("renamed", ["model", "level"]),
        auto_detect=False,
    )
    metrics.add_counter("plain", 1)
    metrics.add_counter("reversed", 1)
    metrics.add_counter("renamed", 1)
    plain, reordered, renamed = metrics.take()
    assert plain.dimensions == []
    assert reordered.dimensions == [("Level", "Model"), ("ModelName", "m")]
    assert reordered.kind is MetricKind.GAUGE
    assert renamed.dimensions == [("model", "m"), ("level", "Model")]


def test_what_is_not_listed_is_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    metrics = cache(auto_detect=False)
    for _ in range(3):
        metrics.add_counter("mine", 1)
    metrics.add_metric_to_cache("mine", "count").add_or_update(1)
    assert metrics.take() == []
    assert caplog.text.count("model_metrics_auto_detect") == 1


def test_only_the_newest_values_are_kept_between_two_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = cache()
    for number in range(MAX_SAMPLES + 2):
        metrics.add_percent("a", number)
    samples = metrics.take()
    assert len(samples) == MAX_SAMPLES
    assert samples[-1].value == MAX_SAMPLES + 1
    assert caplog.text.count("the first 2 are dropped") == 1
    metrics.add_percent("a", 1)
    assert len(metrics.take()) == 1
    assert len(caplog.records) == 1


def test_text_that_cannot_be_sent_is_made_fit() -> None:
    metrics = cache()
    metrics.add_counter("a", 1, dimensions=[Dimension("who", "\ud800"), Dimension("n", 5)])
    assert only(metrics).dimensions[:2] == [("who", "\\ud800"), ("n", "5")]


def test_threads_lose_no_value() -> None:
    metrics = cache()

    def emit() -> None:
        for _ in range(500):
            metrics.add_counter("a", 1)

    threads = [threading.Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += len(metrics.take())
    taken += len(metrics.take())
    assert taken == 2000


def test_a_metric_of_no_cache_writes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metric = HandlerMetric("a", "ms", ["ModelName"], MetricKind.GAUGE)
    metric.add_or_update(1.5, ["m"], "r0")
    (line,) = caplog.messages
    assert line.startswith("[METRICS]a.Milliseconds:1.5|#ModelName:m|#type:GAUGE|#hostname:")
    assert line.endswith(",r0")
