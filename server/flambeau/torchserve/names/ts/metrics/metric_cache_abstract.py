"""What every `context.metrics` is."""

from flambeau.handler_metrics import MetricsCache as MetricCacheAbstract

__all__ = ["MetricCacheAbstract"]
