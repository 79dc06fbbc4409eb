"""Which of TorchServe's metrics exist: `metrics.yaml`, or what stands in for it.

A metric that is not listed is not kept. `ts_metrics` lists what the server measures,
`model_metrics` what handlers do; `metrics_board.py` and `metrics_of_models.py` keep them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import yaml

from flambeau.errors import ConfigError
from flambeau.messages import MetricKind, MetricSpec

HOSTNAME: Final = "Hostname"  # the dimension that every model metric has without being told
OUR_PREFIXES: Final = ("flambeau_", "process_")
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_HISTOGRAM_PARTS: Final = ("_bucket", "_count", "_sum")

_HOST = ("Level", "Hostname")
_WORKER = ("WorkerName", "Level", "Hostname")
_GPU = ("Level", "DeviceId", "Hostname")
_VERSION = ("model_name", "model_version", "hostname")
_MODEL = ("ModelName", "Level")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """The metrics that are kept.

    Attributes:
        server: What the server measures; values are given in `SERVER_METRICS`' order.
        model: What handlers may emit, without the host's name, which all of them get.
    """

    server: tuple[MetricSpec, ...]
    model: tuple[MetricSpec, ...]

    @classmethod
    def read(cls, path: Path | None) -> MetricsConfig:
        """The file's lists; the built-in ones without a file.

        Raises:
            ConfigError: It cannot be read or is not as documented; names the line and the key.
        """
        if path is None:
            return cls(server=SERVER_METRICS, model=MODEL_METRICS)
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"metrics_config {path} cannot be read: {error}") from error
        reader = _Reader(path)
        sections = reader.mapping(root, "the file") if root is not None else {}
        if not {"ts_metrics", "model_metrics"} & sections.keys():
            raise ConfigError(f"metrics_config {path} has neither ts_metrics nor model_metrics")
        return cls(
            server=tuple(reader.metrics(sections.get("ts_metrics"), "ts_metrics")),
            model=tuple(reader.metrics(sections.get("model_metrics"), "model_metrics")),
        )


class _Reader:
    """Walks the YAML nodes, which know their lines; nothing is constructed from them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._series: dict[str, str] = {}  # each name on the page, by whose it is

    def metrics(self, node: yaml.Node | None, section: str) -> Iterator[MetricSpec]:
        if node is None or _is_null(node):
            return
        kinds = {kind.value: kind for kind in MetricKind}
        for word, listing in self.mapping(node, section).items():
            where = f"{section}.{word}"
            if word not in kinds:
                self._fail(listing, f"{where} is no kind of metric; use {', '.join(kinds)}")
            if _is_null(listing):
                continue
            for place, entry in enumerate(self._sequence(listing, where)):
                spec = self._metric(entry, f"{where}[{place}]", kinds[word])
                self._claim(spec, entry)
                yield spec

    def mapping(self, node: yaml.Node, where: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self._fail(node, f"{where} is not a list of `key: value`")
        found: dict[str, yaml.Node] = {}
        merged: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._text(key, f"a key of {where}")
            if key.tag == "tag:yaml.org,2002:merge":  # `<<: *other`
                merged = self.mapping(value, f"{where}.{name}")
            elif name in found:
                self._fail(key, f"{where} has {name} twice")
            else:
                found[name] = value
        return merged | found

    def _metric(self, node: yaml.Node, where: str, kind: MetricKind) -> MetricSpec:
        values = self.mapping(node, where)
        for key in ("name", "unit", "dimensions"):
            if key not in values:
                self._fail(node, f"{where} has no {key}; give name, unit and dimensions")
        name = self._text(values["name"], f"{where}.name")
        if not _NAME.fullmatch(name):
            self._fail(values["name"], f"{where}.name is {name!r}; use letters, digits, _ and :")
        dimensions = [
            self._text(each, f"{where}.dimensions")
            for each in self._sequence(values["dimensions"], f"{where}.dimensions")
        ]
        for label in dimensions:
            if not _LABEL.fullmatch(label) or dimensions.count(label) > 1:
                self._fail(values["dimensions"], f"{where}.dimensions: {label!r} is no new label")
        if where.startswith("model_metrics"):
            dimensions = [label for label in dimensions if label != HOSTNAME]
        unit = self._text(values["unit"], f"{where}.unit")
        return MetricSpec(name=name, unit=unit, kind=kind, dimensions=dimensions)

    def _claim(self, spec: MetricSpec, node: yaml.Node) -> None:
        """Let no two metrics write the same names on the page."""
        for series in series_names(spec.name, spec.kind):
            if series.startswith(OUR_PREFIXES):
                self._fail(node, f"{spec.name} begins with {' or '.join(OUR_PREFIXES)}")
            if series in self._series:
                self._fail(node, f"{spec.name} is there twice, beside {self._series[series]}")
            self._series[series] = spec.name

    def _sequence(self, node: yaml.Node, where: str) -> Sequence[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            self._fail(node, f"{where} is not a list")
        return list(node.value)

    def _text(self, node: yaml.Node, where: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._fail(node, f"{where} is not a text")
        return "" if _is_null(node) else str(node.value)

    def _fail(self, node: yaml.Node, problem: str) -> NoReturn:
        raise ConfigError(
            f"metrics_config {self._path}, line {node.start_mark.line + 1}: {problem}"
        )


def series_names(name: str, kind: MetricKind) -> tuple[str, ...]:
    """The names that a metric has on the page."""
    parts = _HISTOGRAM_PARTS if kind is MetricKind.HISTOGRAM else ()
    return (name, *(name + part for part in parts))


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _specs(
    kind: MetricKind, dimensions: Sequence[str], *units_and_names: tuple[str, str]
) -> Iterator[MetricSpec]:
    for unit, names in units_and_names:
        for name in names.split():
            yield MetricSpec(name=name, unit=unit, kind=kind, dimensions=list(dimensions))


SERVER_METRICS: Final = (
    *_specs(MetricKind.COUNTER, _HOST, ("Count", "Requests2XX Requests4XX Requests5XX")),
    *_specs(
        MetricKind.COUNTER,
        _VERSION,
        ("Count", "ts_inference_requests_total"),
        ("Microseconds", "ts_inference_latency_microseconds ts_queue_latency_microseconds"),
    ),
    *_specs(MetricKind.GAUGE, _HOST, ("Milliseconds", "QueueTime WorkerThreadTime")),
    *_specs(MetricKind.GAUGE, _WORKER, ("Milliseconds", "WorkerLoadTime")),
    *_specs(
        MetricKind.GAUGE,
        _HOST,
        ("Percent", "CPUUtilization MemoryUtilization DiskUtilization"),
        ("Megabytes", "MemoryUsed MemoryAvailable"),
        ("Gigabytes", "DiskUsage DiskAvailable"),
    ),
    *_specs(
        MetricKind.GAUGE,
        _GPU,
        ("Percent", "GPUMemoryUtilization GPUUtilization"),
        ("Megabytes", "GPUMemoryUsed"),
    ),
)
MODEL_METRICS: Final = tuple(_specs(MetricKind.GAUGE, _MODEL, ("ms", "HandlerTime PredictionTime")))
