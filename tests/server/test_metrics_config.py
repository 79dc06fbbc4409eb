from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.errors import ConfigError
from flambeau.messages import MetricKind, MetricSpec
from flambeau.metrics_config import MetricsConfig

LIKE_TORCHSERVE_S = """\
dimensions:
  - &model_name "ModelName"
  - &level "Level"
  - &hostname "Hostname"

ts_metrics:
  counter:
    - name: Requests2XX
      unit: Count
      dimensions: [*level, *hostname]
  gauge:
    - name: QueueTime
      unit: Milliseconds
      dimensions: [*level, *hostname]
  histogram:

model_metrics:
  # the host's name is added
  counter:
    - name: Calls
      unit: count
      dimensions: []
    - name: Errors
      unit: ""
      dimensions: [*model_name, *level, *hostname]
  histogram:
    - {name: Share, unit: percent, dimensions: ["Method", *model_name]}
"""

A = "    - {name: A, unit: ms, dimensions: []}"


def read(tmp_path: Path, text: str) -> MetricsConfig:
    file = tmp_path / "metrics.yaml"
    file.write_text(text, encoding="utf-8")
    return MetricsConfig.read(file)


def test_without_a_file_every_default_metric_is_kept() -> None:
    config = MetricsConfig.read(None)
    assert {spec.name: spec.kind.value for spec in config.server} == {
        "Requests2XX": "counter",
        "Requests4XX": "counter",
        "Requests5XX": "counter",
        "ts_inference_requests_total": "counter",
        "ts_inference_latency_microseconds": "counter",
        "ts_queue_latency_microseconds": "counter",
        "QueueTime": "gauge",
        "WorkerThreadTime": "gauge",
        "WorkerLoadTime": "gauge",
        "CPUUtilization": "gauge",
        "MemoryUsed": "gauge",
        "MemoryAvailable": "gauge",
        "MemoryUtilization": "gauge",
        "DiskUsage": "gauge",
        "DiskAvailable": "gauge",
        "DiskUtilization": "gauge",
        "GPUMemoryUtilization": "gauge",
        "GPUMemoryUsed": "gauge",
        "GPUUtilization": "gauge",
    }
    assert [spec.name for spec in config.model] == ["HandlerTime", "PredictionTime"]


def test_a_file_is_read_with_its_anchors(tmp_path: Path) -> None:
    config = read(tmp_path, LIKE_TORCHSERVE_S)
    assert config.server[0] == MetricSpec(
        name="Requests2XX",
        unit="Count",
        kind=MetricKind.COUNTER,
        dimensions=["Level", "Hostname"],
    )
    assert [spec.name for spec in config.server] == ["Requests2XX", "QueueTime"]
    assert [(s.name, s.unit, s.kind.value, s.dimensions) for s in config.model] == [
        ("Calls", "count", "counter", []),
        ("Errors", "", "counter", ["ModelName", "Level"]),
        ("Share", "percent", "histogram", ["Method", "ModelName"]),
    ]


def test_a_relative_path_starts_where_the_server_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("ts_metrics:\n")
    monkeypatch.chdir(tmp_path)
    assert MetricsConfig.read(Path("mine.yaml")) == MetricsConfig(server=(), model=())


def test_merged_mappings_are_understood(tmp_path: Path) -> None:
    text = """\
base: &base {unit: count, dimensions: [ModelName]}
model_metrics:
  counter:
    - <<: *base
      name: Calls
    - <<: *base
      name: Errors
      unit: ""
"""
    calls, errors = read(tmp_path, text).model
    assert (calls.unit, calls.dimensions) == ("count", ["ModelName"])
    assert (errors.name, errors.unit) == ("Errors", "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither ts_metrics nor model_metrics"),
        ("model_metrics: [", "cannot be read"),
        ("- model_metrics", "line 1: the file is not a list of `key: value`"),
        ("ts_metrics: 5", "line 1: ts_metrics is not"),
        ("ts_metrics: {}\nmodel_metrics:\n  summary: []", "line 3: model_metrics.summary is no"),
        ("model_metrics:\n  gauge: {}", "line 2: model_metrics.gauge is not a list"),
        ("model_metrics:\n  gauge:\n    - A", "line 3: model_metrics.gauge[0] is not"),
        (
            "model_metrics:\n  gauge:\n    - {name: A, unit: ms}",
            "line 3: model_metrics.gauge[0] has no dimensions",
        ),
        (
            "model_metrics:\n  gauge:\n    - {name: A b, unit: ms, dimensions: []}",
            "model_metrics.gauge[0].name is 'A b'",
        ),
        (
            "model_metrics:\n  gauge:\n    - {name: A, unit: ms, dimensions: [b-c]}",
            "'b-c' is no new label",
        ),
        (
            "model_metrics:\n  gauge:\n    - {name: A, unit: ms, dimensions: [b, b]}",
            "'b' is no new label",
        ),
        (
            "model_metrics:\n  gauge:\n    - {name: [A], unit: ms, dimensions: []}",
            "model_metrics.gauge[0].name is not a text",
        ),
        (
            "model_metrics:\n  gauge:\n    - {name: A, name: B, unit: ms, dimensions: []}",
            "model_metrics.gauge[0] has name twice",
        ),
        (
            f"ts_metrics:\n  gauge:\n{A}\nmodel_metrics:\n  counter:\n{A}",
            "line 6: A is there twice",
        ),
        (
            f"model_metrics:\n  histogram:\n{A}\n  counter:\n{A.replace('A', 'A_count')}",
            "line 5: A_count is there twice, beside A",
        ),
        (
            "model_metrics:\n  gauge:\n    - {name: flambeau_ready, unit: ms, dimensions: []}",
            "flambeau_ready begins with",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line_and_key(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)
    assert "metrics.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics_config .*none\.yaml cannot be read"):
        MetricsConfig.read(tmp_path / "none.yaml")
