"""A metric as handlers hold it."""

from flambeau.handler_metric import HandlerMetric as CachingMetric

__all__ = ["CachingMetric"]
