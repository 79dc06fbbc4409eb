from __future__ import annotations

import logging

import pytest

from flambeau.config import MetricsMode
from flambeau.messages import MetricKind, MetricSpec
from flambeau.metrics_board import MetricsBoard
from flambeau.metrics_config import SERVER_METRICS

END = "|#hostname:h,timestamp:1234"


def board(*specs: MetricSpec, mode: MetricsMode = MetricsMode.PROMETHEUS) -> MetricsBoard:
    return MetricsBoard(specs or SERVER_METRICS, mode=mode, hostname="h", clock=lambda: 1234.5)


def spec(name: str, dimensions: list[str], kind: MetricKind = MetricKind.GAUGE) -> MetricSpec:
    return MetricSpec(name=name, unit="Milliseconds", kind=kind, dimensions=dimensions)


def lines(page: str) -> list[str]:
    return [line for line in page.splitlines() if not line.startswith("#")]


def test_a_bound_metric_is_recorded_on_the_page() -> None:
    metrics = board()
    metrics.bind("QueueTime", "Host")(1.5)
    metrics.bind("QueueTime", "Host")(2.5)
    requests = metrics.bind("Requests2XX", "Host")
    requests(1)
    requests(1)
    assert lines(metrics.render(())) == [
        'Requests2XX{Level="Host",Hostname="h",} 2.0',
        'QueueTime{Level="Host",Hostname="h",} 2.5',
    ]


def test_every_listed_metric_is_named_on_the_page_before_it_has_a_value() -> None:
    page = board().render(())
    for each in SERVER_METRICS:
        assert f"# TYPE {each.name} {each.kind.value}\n" in page


def test_what_is_not_listed_goes_nowhere() -> None:
    metrics = board(spec("QueueTime", ["Level", "Hostname"]))
    metrics.bind("WorkerThreadTime", "Host")(1)
    metrics.forget("WorkerThreadTime", "Host")
    assert "WorkerThreadTime" not in metrics.render(())


def test_a_forgotten_series_leaves_the_page() -> None:
    metrics = board()
    metrics.bind("WorkerLoadTime", "W-9000-m_1.0", "Host")(5)
    metrics.forget("WorkerLoadTime", "W-9000-m_1.0", "Host")
    assert lines(metrics.render(())) == []


@pytest.mark.parametrize(
    ("dimensions", "labels"),
    [
        (["Hostname", "Level"], 'Hostname="h",Level="Host",'),
        (["Hostname"], 'Hostname="h",'),
        (["level", "host"], 'level="Host",host="h",'),
    ],
)
def test_listed_dimensions_may_be_reordered_left_out_or_renamed(
    dimensions: list[str], labels: str
) -> None:
    metrics = board(spec("QueueTime", dimensions))
    metrics.bind("QueueTime", "Host")(1)
    assert lines(metrics.render(())) == [f"QueueTime{{{labels}}} 1.0"]


def test_dimensions_that_nothing_can_fill_switch_a_metric_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = board(spec("QueueTime", ["Level", "Hostname", "Zone"]))
    metrics.bind("QueueTime", "Host")(1)
    assert metrics.render(()) == ""
    assert "QueueTime is not kept" in caplog.text


def test_a_listed_kind_decides_how_values_add_up() -> None:
    metrics = board(spec("QueueTime", ["Level", "Hostname"], MetricKind.HISTOGRAM))
    metrics.bind("QueueTime", "Host")(1)
    metrics.bind("QueueTime", "Host")(2)
    assert 'QueueTime_sum{Level="Host",Hostname="h",} 3.0' in lines(metrics.render(()))


def test_in_the_log_every_value_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metrics = board(mode=MetricsMode.LOG)
    metrics.bind("Requests2XX", "Host")(1)
    metrics.bind("Requests2XX", "Host")(1)
    metrics.bind("ts_queue_latency_microseconds", "m", "default")(12.5)
    metrics.bind("WorkerLoadTime", "W-9000-m\n_1.0", "Host")(2717)
    assert caplog.messages == [
        "Requests2XX.Count:1.0|#Level:Host" + END,
        "Requests2XX.Count:1.0|#Level:Host" + END,
        "ts_queue_latency_microseconds.Microseconds:12.5|#model_name:m,model_version:default" + END,
        "WorkerLoadTime.Milliseconds:2717.0|#WorkerName:W-9000-m _1.0,Level:Host" + END,
    ]
    assert {record.name for record in caplog.records} == {"flambeau.metrics.server"}
    assert metrics.render(()) == ""


def test_legacy_puts_three_counters_on_the_page_and_the_rest_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    metrics = board(mode=MetricsMode.LEGACY)
    metrics.bind("ts_inference_requests_total", "m", "default")(1)
    metrics.bind("QueueTime", "Host")(1)
    page = metrics.render(())
    assert lines(page) == [
        'ts_inference_requests_total{model_name="m",model_version="default",hostname="h",} 1.0'
    ]
    assert [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")] == [
        "ts_inference_requests_total",
        "ts_inference_latency_microseconds",
        "ts_queue_latency_microseconds",
    ]
    assert caplog.messages == ["QueueTime.Milliseconds:1.0|#Level:Host" + END]
