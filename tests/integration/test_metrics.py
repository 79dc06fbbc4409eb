from __future__ import annotations

import re
import subprocess
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.archives import service
from tests.integration.server import (
    JSON,
    PATIENCE_S,
    Server,
    clean_environment,
    running_server,
    serve_command,
    wait_until,
)

METRICS_YAML = """
ts_metrics:
  gauge:
    - {name: QueueTime, unit: Milliseconds, dimensions: [Level, Hostname]}
    - {name: DiskUsage, unit: Gigabytes, dimensions: [Level, Hostname]}
model_metrics:
  counter:
    - {name: Loads, unit: count, dimensions: [ModelName, Level]}
    - {name: Requests, unit: count, dimensions: [User]}
  gauge:
    - {name: InputSize, unit: kB, dimensions: [ModelName, Level]}
    - {name: PredictionTime, unit: ms, dimensions: [ModelName, Level]}
  histogram:
    - {name: Share, unit: percent, dimensions: [ModelName, Level]}
"""

OUTCOMES = ("ok", "request_error", "overloaded", "worker_error", "cancelled")


def outcomes(server: Server, model: str, version: str = "1.0") -> dict[str, float]:
    samples = server.samples("flambeau_requests_total")
    return {
        outcome: samples[f'model="{model}",outcome="{outcome}",version="{version}"']
        for outcome in OUTCOMES
    }


def torchserve_count(server: Server, name: str, model: str = "", version: str = "default") -> float:
    """One of TorchServe's counters, whose last label is the host's name; 0 before its first."""
    start = f'model_name="{model}",model_version="{version}",' if model else 'Level="Host",'
    return sum(v for key, v in server.samples(name).items() if key.startswith(start))


def queue_depth(server: Server, model: str) -> float:
    start = f'flambeau_queue_depth{{model="{model}",version="1.0"}} '
    lines = server.metrics.get("/metrics").text.splitlines()
    (value,) = [line.removeprefix(start) for line in lines if line.startswith(start)]
    return float(value)


def test_counters_equal_what_was_sent(server: Server) -> None:
    before = outcomes(server, "careless")
    accepted = torchserve_count(server, "ts_inference_requests_total", "careless")
    for _ in range(5):
        server.predict("careless", json={"return": "text", "text": "fine"})
    for _ in range(3):
        server.predict("careless", json={"return": "invalid"})
    for _ in range(2):
        server.predict("careless", json={"return": "no list"})
    added = {key: value - before[key] for key, value in outcomes(server, "careless").items()}
    assert added == {
        "ok": 5,
        "request_error": 3,
        "overloaded": 0,
        "worker_error": 2,
        "cancelled": 0,
    }
    assert torchserve_count(server, "ts_inference_requests_total", "careless") == accepted + 10


def test_responses_are_counted_by_listener_and_status(server: Server) -> None:
    name = "flambeau_http_responses_total"
    before = server.samples(name)
    host = {kind: torchserve_count(server, f"Requests{kind}XX") for kind in (2, 4, 5)}
    for _ in range(4):
        server.predict("echo", json={})
    for _ in range(3):
        server.predict("nobody", json={})
    for _ in range(2):
        server.predict("careless", json={"return": "no list"})
    after = server.samples(name)
    added = {
        status: after[key] - before.get(key, 0)
        for status in (200, 404, 503)
        if (key := f'listener="inference",status="{status}"')
    }
    assert added == {200: 4, 404: 3, 503: 2}
    # each look at the numbers is a request, too: 6 since the first one was rendered
    assert torchserve_count(server, "Requests4XX") == host[4] + 3
    assert torchserve_count(server, "Requests5XX") == host[5] + 2
    assert torchserve_count(server, "Requests2XX") == host[2] + 4 + 6


def test_a_worker_s_load_time_is_there_as_long_as_the_worker(server: Server) -> None:
    def names() -> set[str]:
        """Workers by the only thing their names have in common with their versions."""
        samples = server.samples("WorkerLoadTime")
        return {key.partition('"')[2].partition('"')[0] for key in samples}

    before = {name for name in names() if name.endswith("-echo_2.0")}
    assert len(before) == 1
    server.management.put("/models/echo/2.0?min_worker=2&synchronous=true")
    assert len({name for name in names() if name.endswith("-echo_2.0")}) == 2
    server.management.put("/models/echo/2.0?min_worker=1&max_worker=1&synchronous=true")
    assert len({name for name in names() if name.endswith("-echo_2.0")}) == 1
    load_s = server.samples("flambeau_worker_load_seconds_count")
    assert load_s['model="echo",version="2.0"'] >= 2


def test_times_and_batches_are_counted_for_every_request(server: Server) -> None:
    labels = 'model="echo",version="2.0"'
    names = [
        f"flambeau_{name}_count"
        for name in ("request_seconds", "queue_wait_seconds", "handler_seconds", "batch_size")
    ]
    before = [server.samples(name)[labels] for name in names]
    for _ in range(6):
        server.predict("echo", json={}, version="2.0")
    assert [server.samples(name)[labels] for name in names] == [count + 6 for count in before]
    assert torchserve_count(server, "ts_inference_latency_microseconds", "echo", "2.0") > 0


def test_the_queue_depth_rises_and_returns_to_nothing(server: Server, gate: Path) -> None:
    held = [server.predict_soon("held", json={"name": "first", "gate": str(gate)})]
    wait_until(gate.with_name("first.started").exists, what="the worker is busy")
    held += [server.predict_soon("held", json={}) for _ in range(3)]
    wait_until(lambda: queue_depth(server, "held") == 3, what="three wait")
    gate.touch()
    assert [answer.result().status_code for answer in held] == [200] * 4
    assert queue_depth(server, "held") == 0


def test_names_filter_the_samples(server: Server) -> None:
    response = server.metrics.get(
        "/metrics", params={"name[]": ["flambeau_ready", "Requests2XX", "nothing"]}
    )
    samples = [line for line in response.text.splitlines() if not line.startswith("#")]
    assert {line.partition("{")[0].partition(" ")[0] for line in samples} == {
        "flambeau_ready",
        "Requests2XX",
    }
    assert "flambeau_ready 1.0" in samples


def test_names_filter_gauges_too(server: Server) -> None:
    assert server.samples("flambeau_queue_depth")['model="held",version="1.0"'] == 0


def test_the_exposition_is_what_prometheus_reads(server: Server) -> None:
    server.predict("echo", json={})
    response = server.metrics.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    workers = {
        (sample.labels["model"], sample.labels["version"]): sample.value
        for sample in families["flambeau_workers"].samples
        if sample.labels["state"] == "ready"
    }
    assert workers[("echo", "1.0")] == workers[("echo", "2.0")] == 1
    defaults = families["flambeau_default_version"].samples
    assert {
        sample.labels["version"]: sample.value
        for sample in defaults
        if sample.labels["model"] == "echo"
    } == {"1.0": 1, "2.0": 0}
    # the old client of TorchServe ends its labels with a comma, and people match it
    assert 'Requests2XX{Level="Host",Hostname="' in response.text
    assert ",} " in response.text


def test_what_clients_make_up_never_becomes_a_label(server: Server) -> None:
    server.predict("made-up-model", json={})
    server.predict("echo", json={}, version="made-up-version")
    server.inference.get("/made-up-path")
    server.inference.request("MADEUP", "/predictions/echo")
    assert "made" not in server.metrics.get("/metrics").text.lower()


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves a handler that measures, and lists some of it."""
    store = tmp_path_factory.mktemp("store")
    (store.parent / "metrics.yaml").write_text(METRICS_YAML)
    with running_server(
        store,
        *("--metrics-config", str(store.parent / "metrics.yaml")),
        models=[service(store, "measuring").name],
    ) as running:
        yield running


def measure(server: Server, user: str = "ann", share: float = 12.0) -> JSON:
    response = server.predict("measuring", json={"user": user, "size": 2.5, "share": share})
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_what_a_handler_measures_is_on_the_page(measuring: Server) -> None:
    for user in ("ann", "ben", "ann"):
        measure(measuring, user)
    page = measuring.metrics.get("/metrics").text
    for pattern in (
        r'Loads\{ModelName="measuring",Level="Model",Hostname=".+",\} 1\.0',
        r"# TYPE Requests counter",
        r'Requests\{User="ann",Hostname=".+",\} 2\.0',
        r'Requests\{User="ben",Hostname=".+",\} 1\.0',
        r"# TYPE InputSize gauge",
        r'InputSize\{ModelName="measuring",Level="Model",Hostname=".+",\} 2\.5',
        r"# TYPE Share histogram",
        r'Share_count\{ModelName="measuring",Level="Model",Hostname=".+",\} 3\.0',
        r'Share_sum\{ModelName="measuring",Level="Model",Hostname=".+",\} 36\.0',
        r'PredictionTime\{ModelName="measuring",Level="Model",Hostname=".+",\} \d+\.\d+',
    ):
        assert len(re.findall(f"{pattern}\n", page)) == 1, pattern
    families = {family.name for family in text_string_to_metric_families(page)}
    assert {"Share", "flambeau_requests"} <= families


def test_what_is_not_listed_is_neither_kept_nor_forgotten(measuring: Server) -> None:
    measure(measuring)
    page = measuring.metrics.get("/metrics").text
    for name in ("Unlisted", "HandlerTime", "Requests2XX", "CPUUtilization"):
        assert f"{name}{{" not in page
    measuring.wait_record(lambda record: "metric Unlisted is dropped" in record["message"])


def test_the_machine_is_measured_from_the_start(measuring: Server) -> None:
    wait_until(lambda: bool(measuring.samples("DiskUsage")), what="the disk has been read")
    (used,) = measuring.samples("DiskUsage").values()
    assert used > 0


def says(pattern: str, record: JSON) -> bool:
    return re.fullmatch(pattern, record["message"]) is not None


def test_in_the_log_a_metric_is_a_line_with_its_requests(tmp_path: Path) -> None:
    with running_server(
        tmp_path,
        *("--metrics-mode", "log", "--model-metrics-auto-detect"),
        models=[service(tmp_path, "measuring").name],
    ) as server:
        request_id = measure(server)["ids"]
        ending = rf"\|#hostname:.+,requestID:{request_id},timestamp:\d+"
        end = r"\|#hostname:.+,timestamp:\d+"
        model = r"\|#ModelName:measuring,Level:Model"
        version = "model_name:measuring,model_version:default"
        for logger, pattern in (
            ("server", rf"ts_queue_latency_microseconds\.Microseconds:\d+\.\d+\|#{version}{end}"),
            ("server", rf"WorkerLoadTime\.Milliseconds:\d+\.\d+\|#WorkerName:W-9000-.+{end}"),
            ("model", rf"PredictionTime\.ms:\d+\.\d+{model}{ending}"),
            ("model", rf"Unlisted\.furlongs:1\.0{model}{ending}"),
            ("model", rf"Requests\.Count:1\.0\|#User:ann,ModelName:measuring,Level:Model{ending}"),
            (
                "server",
                r"QueueTime\.Milliseconds:\d+\.\d+\|#Level:Host\|#hostname:.+,timestamp:\d+",
            ),
            ("server", r"Requests2XX\.Count:1\.0\|#Level:Host\|#hostname:.+,timestamp:\d+"),
            ("server", r"DiskUsage\.Gigabytes:\d+\.\d+\|#Level:Host\|#hostname:.+,timestamp:\d+"),
        ):
            record = server.wait_record(partial(says, pattern))
            assert record["logger"] == f"flambeau.metrics.{logger}"
        assert "Unlisted" not in server.metrics.get("/metrics").text


def test_a_broken_metrics_yaml_keeps_the_server_from_starting(tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text("model_metrics:\n  gauge: [{name: A, unit: ms}]\n")
    done = subprocess.run(
        serve_command(tmp_path, "--metrics-config", str(tmp_path / "metrics.yaml")),
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "line 2: model_metrics.gauge[0] has no dimensions" in done.stderr
