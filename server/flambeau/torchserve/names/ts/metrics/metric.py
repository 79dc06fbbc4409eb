"""A value with a name; deprecated."""

from flambeau.torchserve.metrics.old import Metric, Units

__all__ = ["Metric", "MetricUnit", "Units"]

MetricUnit = Units()
