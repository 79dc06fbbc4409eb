from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from flambeau.metrics import Metrics, VersionGauges


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
    version.batch_started(size=3, queue_waits_s=[0.001, 0.002, 0.003])
    version.batch_done(handler_s=0.5)
    page = metrics.render()
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
