"""TorchServe's import names for metrics, as handlers and their own tests use them."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flambeau
from flambeau.handler_metric import Dimension
from flambeau.handler_metrics import MetricsCache

NAMES = Path(flambeau.__file__).parent / "torchserve" / "names"

METRICS_YAML = """\
dimensions:
  - &model_name "ModelName"
model_metrics:
  counter:
    - name: Calls
      unit: count
      dimensions: [*model_name]
  gauge:
    - name: HandlerTime
      unit: ms
      dimensions: [*model_name, "Level"]
"""


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch, imports_are_undone: None) -> None:
    monkeypatch.syspath_prepend(NAMES)


def name(path: str) -> Any:  # noqa: ANN401  # a module's attribute
    """`metric.Metric` of `ts.metrics`."""
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(f"ts.metrics.{module}"), attribute)


@pytest.fixture
def metrics_yaml(tmp_path: Path) -> Path:
    file = tmp_path / "metrics.yaml"
    file.write_text(METRICS_YAML)
    return file


def test_every_module_can_be_imported() -> None:
    for path in (NAMES / "ts" / "metrics").glob("*.py"):
        module = importlib.import_module(f"ts.metrics.{path.stem}")
        for exported in getattr(module, "__all__", ()):
            assert hasattr(module, exported)


def test_what_workers_hand_out_is_what_the_names_say() -> None:
    metrics = MetricsCache(model_name="m", auto_detect=True)
    metric = metrics.add_metric_to_cache("a", "ms", [], name("metric_type_enum.MetricTypes").GAUGE)
    assert isinstance(metrics, name("metric_cache_abstract.MetricCacheAbstract"))
    assert isinstance(metric, name("caching_metric.CachingMetric"))
    with pytest.raises(name("metric_cache_errors.MetricsCacheKeyError")):
        metrics.get_metric("b")
    assert metric.unit == name("unit.Units")().units["ms"] == "Milliseconds"
    metrics.add_counter("b", 1, None, [name("dimension.Dimension")("Method", "x")])
    assert metrics.take()[0].dimensions[0] == ("Method", "x")


def test_kinds_have_the_words_of_metrics_yaml() -> None:
    kinds = name("metric_type_enum.MetricTypes")
    assert [kind.value for kind in kinds] == ["counter", "gauge", "histogram"]
    assert kinds("counter") is kinds.COUNTER


def test_a_file_s_metrics_can_be_used_without_a_server(
    metrics_yaml: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    metrics = name("metric_cache_yaml_impl.MetricsCacheYamlImpl")(config_file_path=metrics_yaml)
    metrics.initialize_cache()
    metrics.model_name = "m"
    metrics.set_request_ids({0: "r0"})
    metrics.get_metric("Calls").add_or_update(1, ["m"])
    metrics.add_time("HandlerTime", 2.5, 0)
    first, second = caplog.messages
    assert first.startswith("[METRICS]Calls.Count:1.0|#ModelName:m|#type:COUNTER|#hostname:")
    assert second.startswith("[METRICS]HandlerTime.Milliseconds:2.5|#ModelName:m,Level:Model|")
    assert second.endswith(",r0")
    assert metrics.take() == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ts_metrics: {}", "KeyError"),
        ("model_metrics:", "ValueError"),
        ("model_metrics: {summary: []}", "KeyError"),
        ("model_metrics: {gauge: [{name: a, unit: ms}]}", "KeyError"),
        ("model_metrics: {gauge: [{name: 5, unit: ms, dimensions: []}]}", "TypeError"),
    ],
)
def test_a_file_that_lists_wrongly_is_refused(text: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(text)
    metrics = name("metric_cache_yaml_impl.MetricsCacheYamlImpl")(str(file))
    with pytest.raises(name(f"metric_cache_errors.MetricsCache{error}")):
        metrics.initialize_cache()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    cache = name("metric_cache_yaml_impl.MetricsCacheYamlImpl")
    errors = "metric_cache_errors.MetricsCache"
    with pytest.raises(name(f"{errors}IOError")):
        cache(str(tmp_path / "none.yaml"))
    with pytest.raises(name(f"{errors}TypeError")):
        cache("")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(name(f"{errors}PyYamlError")):
        cache(str(tmp_path / "bad.yaml"))


def test_a_metric_is_written_as_a_line_of_the_log() -> None:
    dimensions = [Dimension("Level", "Host"), Dimension("DeviceId", 0)]
    metric = name("metric.Metric")("Used", 1, "MB", dimensions, "r0")
    metric.update(2)
    assert re.fullmatch(
        r"Used\.Megabytes:2\|#Level:Host,DeviceId:0\|#hostname:.+,\d+,r0", str(metric)
    )
    counter = name("metric.Metric")("Count", 1, "count", [], metric_method="counter")
    counter.update(2)
    assert re.fullmatch(r"Count\.Count:3\|#\|#hostname:.+,\d+", str(counter))
    document = json.loads(json.dumps(metric, cls=name("metric_encoder.MetricEncoder")))
    assert document["MetricName"] == "Used"
    assert document["Dimensions"][0] == {"Name": "Level", "Value": "Host"}


def test_a_store_collects_metrics_with_their_dimensions() -> None:
    store = name("metrics_store.MetricsStore")({0: "r0", 1: "r1"}, "m")
    store.add_counter("a", 1, 0)
    store.add_counter("a", 2, 0)
    store.add_counter("a", 5, 1)
    store.add_metric("b", 3, None, "km")
    store.add_metric("b", 4, None, "km")
    assert [(m.name, m.value, m.unit, m.request_id) for m in store.store] == [
        ("a", 3, "Count", "r0"),
        ("a", 5, "Count", "r1"),
        ("b", 4, "km", "r0,r1"),
    ]
    assert [str(each) for each in store.store[0].dimensions] == ["ModelName:m", "Level:Model"]


def test_the_machine_s_state_can_be_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    name("system_metrics.collect_all")(sys, 0)
    assert any(re.match(r"DiskUsage\.Gigabytes:[\d.]+\|#Level:Host\|", m) for m in caplog.messages)
    caplog.clear()
    check = name("process_memory_metric.check_process_mem_usage")
    check(io.StringIO(f"{os.getpid()},0\n"))
    assert int(caplog.messages[0].partition(":")[2]) > 1_000_000
    assert caplog.messages[-1] == "0:0"


def test_the_collector_runs_as_a_script() -> None:
    done = subprocess.run(
        [sys.executable, str(NAMES / "ts" / "metrics" / "metric_collector.py")],
        input=f"{os.getpid()}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CPUUtilization.Percent:" in done.stdout
    assert f"{os.getpid()}:" in done.stdout
