"""What every metric of a handler is."""

from flambeau.handler_metric import HandlerMetric as MetricAbstract

__all__ = ["MetricAbstract"]
