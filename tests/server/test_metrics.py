from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flambeau.config import MetricsMode
from flambeau.messages import MetricKind, MetricSample, MetricSpec
from flambeau.metrics import Metrics, VersionGauges
from flambeau.metrics_config import MetricsConfig
from flambeau.system_metrics import SystemValue

ROOT = Path(__file__).resolve().parents[2]
HOST = 'Level="Host"'
VERSION = 'model_name="m",model_version="default"'
MODEL = 'ModelName="m",Level="Model"'
# each of TorchServe's series that `_use` makes: its kind, and its labels before the host's name
TORCHSERVE = {
    "Requests2XX": ("counter", HOST),
    "ts_inference_requests_total": ("counter", VERSION),
    "ts_inference_latency_microseconds": ("counter", VERSION),
    "ts_queue_latency_microseconds": ("counter", VERSION),
    "QueueTime": ("gauge", HOST),
    "WorkerThreadTime": ("gauge", HOST),
    "WorkerLoadTime": ("gauge", f'WorkerName="W-9000-m_1.0",{HOST}'),
    "CPUUtilization": ("gauge", HOST),
    "GPUUtilization": ("gauge", f'{HOST},DeviceId="0"'),
    "HandlerTime": ("gauge", MODEL),
    "PredictionTime": ("gauge", MODEL),
}


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of an exposition page, as Prometheus itself reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(page: bytes, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    found = [v for (n, ls), v in samples(page).items() if n == name and wanted <= set(ls)]
    assert len(found) == 1, f"{name}{labels}: {found}"
    return found[0]


def line(page: bytes, start: str) -> float:
    """The value of the one line that starts so; for names the client library would rewrite."""
    (found,) = [text for text in page.decode().splitlines() if text.startswith(start)]
    return float(found.rpartition(" ")[2])


def gauges(version: str, *, is_default: bool) -> VersionGauges:
    return VersionGauges(
        model="m",
        version=version,
        is_default=is_default,
        num_waiting=3,
        workers_by_state={"ready": 2},
    )


def test_requests_are_counted_by_outcome_and_timed() -> None:
    metrics = Metrics()
    version = metrics.version(model="m", version="1.0")
    version.request_accepted()
    version.request_done(outcome="ok", duration_s=0.25)
    version.request_accepted()
    version.request_done(outcome="request_error", duration_s=0.25)
    page = metrics.render()
    assert value(page, "flambeau_requests_total", model="m", version="1.0", outcome="ok") == 1
    assert value(page, "flambeau_request_seconds_sum", model="m") == 0.5
    assert value(page, "ts_inference_requests_total", model_name="m", model_version="1.0") == 2
    assert line(page, 'ts_inference_latency_microseconds{model_name="m",') == 500_000


def test_torchserve_s_names_labels_and_trailing_comma_are_kept() -> None:
    metrics = Metrics()
    metrics.response_sent(listener="inference", status=200)
    metrics.response_sent(listener="inference", status=404)
    metrics.response_sent(listener="inference", status=302)
    page = metrics.render().decode()
    assert 'Requests2XX{Level="Host",Hostname="' in page
    assert '",} 1.0\n' in page
    assert line(page.encode(), 'Requests4XX{Level="Host",') == 1
    assert line(page.encode(), 'Requests5XX{Level="Host",') == 1


def test_batches_are_observed_with_their_size_and_waits() -> None:
    metrics = Metrics()
    version = metrics.version(model="m", version="1.0")
    version.batch_started(size=3, queue_waits_s=[0.75, 0.5, 0.25])
    version.batch_done(handler_s=0.5, roundtrip_s=0.625)
    page = metrics.render()
    assert value(page, "flambeau_batch_assembly_seconds_sum", model="m") == 0.5
    assert value(page, "flambeau_ipc_seconds_sum", model="m", version="1.0") == 0.125
    assert line(page, "QueueTime{") == 250
    assert line(page, "WorkerThreadTime{") == 125
    assert line(page, 'ts_queue_latency_microseconds{model_name="m",') == 1_500_000
    assert value(page, "flambeau_batch_size_bucket", model="m", le="4.0") == 1
    assert value(page, "flambeau_queue_wait_seconds_count", model="m") == 3
    assert value(page, "flambeau_handler_seconds_sum", model="m") == 0.5


def test_gauges_are_read_from_their_owner_at_each_scrape() -> None:
    metrics = Metrics()
    state = [gauges("1.0", is_default=True)]
    metrics.watch(versions=lambda: state, ready=lambda: True)
    page = metrics.render()
    assert value(page, "flambeau_queue_depth", model="m", version="1.0") == 3
    assert value(page, "flambeau_workers", model="m", state="ready") == 2
    assert value(page, "flambeau_default_version", version="1.0") == 1
    assert value(page, "flambeau_ready") == 1
    state[:] = [gauges("2.0", is_default=True)]
    assert value(metrics.render(), "flambeau_default_version") == 1
    assert "2.0" in str(samples(metrics.render()))


def test_the_page_can_be_limited_to_some_samples() -> None:
    metrics = Metrics()
    metrics.version(model="m", version="1.0").request_accepted()
    page = metrics.render(["ts_inference_requests_total"])
    assert {name for name, _ in samples(page)} == {"ts_inference_requests_total"}


def test_label_values_cannot_break_out_of_their_quotes() -> None:
    metrics = Metrics()
    metrics.version(model='m"\n} 1\nevil', version="1.0").request_accepted()
    page = metrics.render(["ts_inference_requests_total"])
    assert value(page, "ts_inference_requests_total", model_name='m"\n} 1\nevil') == 1


def test_requests_without_a_version_count_as_torchserve_s_default() -> None:
    metrics = Metrics()
    version = metrics.version(model="m", version="1.0")
    for given in (True, False, False):
        version.request_accepted(version_given=given)
        version.request_done(outcome="ok", duration_s=0.5, version_given=given)
    version.batch_started(size=2, queue_waits_s=[1.0, 2.0], versions_given=[True, False])
    page = metrics.render()
    name = "ts_inference_requests_total"
    assert value(page, name, model_name="m", model_version="default") == 2
    assert value(page, name, model_name="m", model_version="1.0") == 1
    start = "ts_inference_latency_microseconds{model_name="
    assert line(page, start + '"m",model_version="default",') == 1_000_000
    start = "ts_queue_latency_microseconds{model_name="
    assert line(page, start + '"m",model_version="1.0",') == 1_000_000
    assert line(page, start + '"m",model_version="default",') == 2_000_000
    assert value(page, "flambeau_requests_total", version="1.0", outcome="ok") == 3


def test_a_batch_may_go_on_without_new_requests() -> None:
    metrics = Metrics()
    version = metrics.version(model="m", version="1.0")
    version.batch_started(size=3, queue_waits_s=[])
    assert value(metrics.render(), "flambeau_batch_size_count", model="m") == 1


def test_workers_have_a_load_time_until_they_are_gone() -> None:
    metrics = Metrics()
    version = metrics.version(model="m", version="1.0")
    version.worker_loaded(worker_id="9000", load_s=2.5)
    version.worker_loaded(worker_id="9001", load_s=3)
    page = metrics.render()
    assert value(page, "WorkerLoadTime", WorkerName="W-9000-m_1.0") == 2500
    assert value(page, "flambeau_worker_load_seconds_sum", model="m") == 5.5
    version.worker_removed(worker_id="9000")
    assert value(metrics.render(), "WorkerLoadTime") == 3000
    version.close()
    assert "WorkerLoadTime{" not in metrics.render().decode()


def test_a_handler_s_time_is_the_worker_s_unless_it_tells_its_own() -> None:
    metrics = Metrics()
    version = metrics.version(model="m", version="1.0")
    version.batch_done(handler_s=0.5)
    assert line(metrics.render(), 'HandlerTime{ModelName="m",Level="Model",') == 500
    version.samples([_time(0.25)])
    version.batch_done(handler_s=0.5)
    page = metrics.render()
    assert line(page, "HandlerTime{") == 0.25
    assert line(page, "PredictionTime{") == 500


def test_a_default_metric_that_is_not_listed_is_not_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics(MetricsConfig(server=(), model=()))
    _use(metrics)
    metrics.version(model="m", version="1.0").samples([_time(0.25)])
    page = metrics.render(["HandlerTime", "QueueTime", "Requests2XX", "CPUUtilization"])
    assert page == b""
    assert "flambeau_requests_total" in metrics.render().decode()
    assert [each.message for each in caplog.records] == [
        "metric HandlerTime of model m: values are dropped: metrics_config does not list it"
    ]


def test_listed_dimensions_of_a_handler_s_time_are_kept() -> None:
    listed = MetricSpec(
        name="PredictionTime",
        unit="ms",
        kind=MetricKind.HISTOGRAM,
        dimensions=["Level", "ModelName"],
    )
    metrics = Metrics(MetricsConfig(server=(), model=(listed,)))
    metrics.version(model="m", version="1.0").batch_done(handler_s=0.5)
    page = metrics.render()
    assert line(page, 'PredictionTime_sum{Level="Model",ModelName="m",Hostname="') == 500
    assert "HandlerTime" not in page.decode()


def test_metrics_that_are_not_listed_can_be_found_out() -> None:
    metrics = Metrics(MetricsConfig(server=(), model=()), auto_detect=True)
    metrics.version(model="m", version="1.0").batch_done(handler_s=0.5)
    assert line(metrics.render(), 'HandlerTime{ModelName="m",Level="Model",Hostname="') == 500


def test_values_that_are_dropped_are_counted() -> None:
    metrics = Metrics()
    metrics.version(model="m", version="1.0").samples([_time(1, name="Mine")])
    name = "flambeau_metric_values_dropped_total"
    assert value(metrics.render(), name, model="m", reason="unlisted") == 1


def test_workers_are_told_what_is_listed() -> None:
    assert [spec.name for spec in Metrics().model_specs] == ["HandlerTime", "PredictionTime"]


def test_the_page_has_what_users_of_torchserve_look_for() -> None:
    metrics = Metrics()
    _use(metrics)
    page = metrics.render().decode()
    for name, (kind, labels) in TORCHSERVE.items():
        hostname = "hostname" if name.startswith("ts_") else "Hostname"
        pattern = rf'\n{name}\{{{re.escape(labels)},{hostname}=".+",\}} \d+\.\d+\n'
        assert len(re.findall(pattern, page)) == 1, pattern
        assert f"# TYPE {name} {kind}\n" in page
    for spec in (*MetricsConfig.read(None).server, *MetricsConfig.read(None).model):
        assert spec.name in page


def test_in_the_log_the_page_keeps_our_own_series_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metrics = Metrics(mode=MetricsMode.LOG, hostname="h", clock=lambda: 1234.5)
    _use(metrics)
    names = {name for name, _ in samples(metrics.render())}
    assert all(name.startswith(("flambeau_", "process_")) for name in names)
    lines = {record.getMessage(): record.name for record in caplog.records}
    end = "|#hostname:h,timestamp:1234"
    server, model = "flambeau.metrics.server", "flambeau.metrics.model"
    assert lines == {
        f"Requests2XX.Count:1.0|#Level:Host{end}": server,
        f"ts_inference_requests_total.Count:1.0|#model_name:m,model_version:default{end}": server,
        f"ts_queue_latency_microseconds.Microseconds:1500000.0"
        f"|#model_name:m,model_version:default{end}": server,
        f"QueueTime.Milliseconds:1500.0|#Level:Host{end}": server,
        f"WorkerThreadTime.Milliseconds:500.0|#Level:Host{end}": server,
        f"ts_inference_latency_microseconds.Microseconds:500000.0"
        f"|#model_name:m,model_version:default{end}": server,
        f"WorkerLoadTime.Milliseconds:2500.0|#WorkerName:W-9000-m_1.0,Level:Host{end}": server,
        f"CPUUtilization.Percent:5.0|#Level:Host{end}": server,
        f"GPUUtilization.Percent:7.0|#Level:Host,DeviceId:0{end}": server,
        "HandlerTime.ms:250.0|#ModelName:m,Level:Model|#hostname:h,requestID:r0,timestamp:1234": (
            model
        ),
        "PredictionTime.ms:250.0|#ModelName:m,Level:Model"
        "|#hostname:h,requestID:r0,timestamp:1234": model,
    }


def test_the_documentation_has_every_series() -> None:
    metrics = Metrics()
    _use(metrics)
    metrics.watch(versions=list[VersionGauges], ready=lambda: True)
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    told = {name.partition("{")[0] for name in re.findall(r"`(\w+)`", text)}
    kinds = re.findall(r"^# TYPE (\w+) ", metrics.render().decode(), re.MULTILINE)
    ours = {name for name in kinds if not name.startswith("process_")}
    assert {name for name in ours if not name.endswith("_created")} <= told  # not in a server


def _use(metrics: Metrics) -> None:
    """One of everything that can happen."""
    version = metrics.version(model="m", version="1.0")
    version.worker_loaded(worker_id="9000", load_s=2.5)
    version.request_accepted(version_given=False)
    version.batch_started(size=1, queue_waits_s=[1.5], versions_given=[False])
    version.batch_done(handler_s=0.25, roundtrip_s=0.75, request_ids=["r0"])
    version.request_done(outcome="ok", duration_s=0.5, version_given=False)
    metrics.response_sent(listener="inference", status=200)
    metrics.system_sampled(
        [SystemValue("CPUUtilization", 5.0), SystemValue("GPUUtilization", 7.0, "0")]
    )


def _time(value: float, *, name: str = "HandlerTime") -> MetricSample:
    return MetricSample(
        name=name,
        unit="Milliseconds",
        kind=MetricKind.GAUGE,
        value=value,
        dimensions=[("ModelName", "m"), ("Level", "Model")],
        request_ids="r0",
    )
