"""Measures itself in every way that `context.metrics` has."""

from __future__ import annotations

from typing import Any

from flambeau.codec import Row
from flambeau.context import Context
from flambeau.handler_metric import Dimension
from flambeau.handler_metrics import MetricsCache
from flambeau.messages import MetricKind


class Measuring:
    """Loads, and counts it; then answers what it got, and counts that, too."""

    def initialize(self, context: Context) -> None:
        metrics = context.metrics
        assert isinstance(metrics, MetricsCache)
        loads = metrics.add_metric_to_cache("Loads", "count", ["ModelName", "Level"])
        loads.add_or_update(1, [context.model_name, "Model"])

    def handle(self, data: list[Row], context: Context) -> list[dict[str, Any]]:
        metrics = context.metrics
        assert isinstance(metrics, MetricsCache)
        metrics.get_metric("Loads").add_or_update(0, [context.model_name, "Model"])
        for place, row in enumerate(data):
            body: dict[str, Any] = row["body"]
            user = [Dimension("User", body["user"])]
            metrics.add_counter("Requests", 1, place, user)
            metrics.add_size("InputSize", body["size"], place, "kB")
            metrics.add_percent("Share", body["share"], place, metric_type=MetricKind.HISTOGRAM)
            metrics.add_metric("Unlisted", 1, "furlongs", place)
        return [{"ids": context.get_request_id(place)} for place in range(len(data))]
