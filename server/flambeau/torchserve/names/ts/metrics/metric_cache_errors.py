"""What metrics raise."""

from flambeau.handler_metrics import (
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from flambeau.torchserve.metrics.errors import (
    GeneralMetricsCacheError,
    MetricsCacheIOError,
    MetricsCachePyYamlError,
)

__all__ = [
    "GeneralMetricsCacheError",
    "MetricsCacheIOError",
    "MetricsCacheKeyError",
    "MetricsCachePyYamlError",
    "MetricsCacheTypeError",
    "MetricsCacheValueError",
]
