"""`Metric` and `MetricsStore`, which handlers made for early releases use; both are deprecated.

A store collects its metrics; nothing but the handler's own code reads them.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

from flambeau.handler_metric import UNIT_WORDS, Dimension
from flambeau.handler_metrics import MetricsCache
from flambeau.messages import MetricKind, MetricSample


class Units:
    """Words for units: `units["ms"]` is `Milliseconds`."""

    def __init__(self) -> None:
        self.units = dict(UNIT_WORDS)


class Metric:
    """A value with a name; its text is a line of TorchServe's metrics log."""

    def __init__(  # noqa: PLR0917  # TorchServe's signature
        self,
        name: str,
        value: float,
        unit: str | None,
        dimensions: Iterable[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        """`metric_method` is `counter` for values that add up."""
        self.name = name
        self.value = value
        self.unit = UNIT_WORDS.get(unit, str(unit))
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float) -> None:
        """Add to a counter, or replace the value."""
        self.value = self.value + value if self.metric_method == "counter" else value

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        line = (
            f"{self.name}.{self.unit}:{self.value}|#{dimensions}"
            f"|#hostname:{socket.gethostname()},{int(time.time())}"
        )
        return f"{line},{self.request_id}" if self.request_id else line

    def to_dict(self) -> dict[str, Any]:
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }


class MetricEncoder(json.JSONEncoder):
    """Writes metrics and dimensions as JSON."""

    def default(self, o: object) -> Any:  # noqa: ANN401  # JSON's own
        if isinstance(o, (Metric, Dimension)):
            return o.to_dict()
        return super().default(o)


class MetricsStore(MetricsCache):
    """Early releases' `context.metrics`; one `Metric` for each name, unit and set of dimensions."""

    def __init__(self, request_ids: Mapping[int, str] | str | None, model_name: str) -> None:
        super().__init__(model_name=model_name, auto_detect=True)
        self.store: list[object] = []
        self._by_key: dict[object, Metric] = {}
        self.set_request_ids(request_ids)

    def keep(self, sample: MetricSample) -> None:
        key = (sample.name, sample.unit, sample.request_ids, tuple(sample.dimensions))
        metric = self._by_key.get(key)
        if metric is not None:
            metric.update(sample.value)
            return
        self._by_key[key] = metric = Metric(
            sample.name,
            sample.value,
            sample.unit,
            [Dimension(name, value) for name, value in sample.dimensions],
            sample.request_ids,
            "counter" if sample.kind is MetricKind.COUNTER else None,
        )
        self.store.append(metric)

    def add_metric(  # noqa: PLR0917  # as above
        self,
        name: str,
        value: SupportsFloat,
        unit: str | int | None = None,
        idx: int | str | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricKind = MetricKind.GAUGE,
    ) -> None:
        """As the others do, but replace the value before."""
        super().add_metric(name, value, unit, idx, dimensions, metric_type)
