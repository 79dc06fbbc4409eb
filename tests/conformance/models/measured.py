"""A handler that records metrics of each type."""

from __future__ import annotations

from typing import Any

from ts.context import Context
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes


class Measured:
    def initialize(self, context: Context) -> None:
        self.context = context
        context.metrics.add_metric_to_cache(
            "InitialisedGauge", "count", ["ModelName"], MetricTypes.GAUGE
        )

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        metrics = context.metrics
        metrics.add_counter("RowsSeen", len(data))
        metrics.add_counter("RowsSeen", 2, idx=0, dimensions=[Dimension("Colour", "blue")])
        metrics.add_time("ThinkTime", 12.5, idx=0, unit="ms")
        metrics.add_time("LongThinkTime", 1.5, unit="s")
        metrics.add_size("ImageSize", 3.25, unit="kB")
        metrics.add_percent("Confidence", 75)
        metrics.add_error("Mistakes", 1)
        metrics.add_metric("Spread", 0.25, "ms", dimensions=[], metric_type=MetricTypes.HISTOGRAM)
        metrics.get_metric("InitialisedGauge", MetricTypes.GAUGE).add_or_update(
            7.0, [context.model_name]
        )
        return ["measured"] * len(data)
