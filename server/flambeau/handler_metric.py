"""One metric as handlers hold it: a name, a unit, a kind and the names of its dimensions.

`handler_metrics.py` keeps the metrics of a model; values go where `keep` says, or into the log.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, SupportsFloat, TypeAlias

from flambeau.failure_text import sendable
from flambeau.messages import MetricKind, MetricSample

_log = logging.getLogger(__name__)

UNIT_WORDS: Final[dict[str | None, str]] = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "B": "Bytes",
    "kB": "Kilobytes",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "": "unit",
    None: "unit",
}

Keep: TypeAlias = Callable[[MetricSample], None]


@dataclass(frozen=True, slots=True)
class Dimension:
    """A label: what it is called, and its value."""

    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, Any]:
        return {"Name": self.name, "Value": self.value}


class HandlerMetric:
    """TorchServe's `CachingMetric`.

    Attributes:
        metric_name: The series' name.
        unit: The unit's word, e.g. `Milliseconds` for `ms`; other units as they were given.
        dimension_names: In the order in which `add_or_update` takes values.
        metric_type: How values add up.
    """

    def __init__(
        self,
        metric_name: str,
        unit: str | None,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricKind = MetricKind.COUNTER,
        *,
        keep: Keep | None = None,
    ) -> None:
        """Without `keep`, values are written to the worker's log."""
        self.metric_name = metric_name
        self.unit = UNIT_WORDS.get(unit, str(unit))
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type
        self._keep = keep or write

    def add_or_update(
        self,
        value: SupportsFloat,
        dimension_values: Sequence[object] = (),
        request_id: str = "",
    ) -> None:
        """Emit one value; one that cannot be counted is logged and dropped, as in TorchServe.

        Args:
            value: A counter's increment, 0 or more; a gauge's value; an observation.
            dimension_values: One for each of `dimension_names`, in their order.
            request_id: The request it belongs to.
        """
        try:
            sample = self._sample(value, dimension_values, request_id=request_id)
        except (TypeError, ValueError) as error:
            _log.error("metric %s: %s; the value is dropped", self.metric_name, error)
        else:
            self._keep(sample)

    def update(
        self,
        value: SupportsFloat,
        request_id: str = "",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Emit one value under these dimensions, which are the metric's from now on."""
        given = dimensions or ()
        self.dimension_names = [dimension.name for dimension in given]
        self.add_or_update(value, [dimension.value for dimension in given], request_id)

    def _sample(
        self, value: SupportsFloat, dimension_values: Sequence[object], *, request_id: str
    ) -> MetricSample:
        if len(dimension_values) != len(self.dimension_names):
            raise ValueError(
                f"{list(dimension_values)} are not one value for each of the dimensions "
                f"{self.dimension_names}"
            )
        number = float(value)
        if self.metric_type is not MetricKind.GAUGE and not math.isfinite(number):
            raise ValueError(f"{number} cannot be summed up")
        if self.metric_type is MetricKind.COUNTER and number < 0:
            raise ValueError(f"{number} would turn a counter back")
        return MetricSample(
            name=sendable(str(self.metric_name)),
            unit=sendable(self.unit),
            kind=self.metric_type,
            value=number,
            dimensions=[
                (sendable(str(name)), sendable(str(dimension_value)))
                for name, dimension_value in zip(
                    self.dimension_names, dimension_values, strict=True
                )
            ],
            request_ids=sendable(str(request_id or "")),
        )


def write(sample: MetricSample) -> None:
    """The line that TorchServe's workers print."""
    dimensions = ",".join(f"{name}:{value}" for name, value in sample.dimensions)
    line = (
        f"[METRICS]{sample.name}.{sample.unit}:{sample.value}|#{dimensions}"
        f"|#type:{sample.kind.name}|#hostname:{socket.gethostname()},{int(time.time())}"
    )
    _log.info("%s,%s" if sample.request_ids else "%s%s", line, sample.request_ids)
