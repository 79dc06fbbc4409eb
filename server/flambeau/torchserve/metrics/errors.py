"""What `MetricsCacheYamlImpl` raises, beside the errors of `flambeau.handler_metrics`."""

from __future__ import annotations

import yaml


class GeneralMetricsCacheError(Exception):
    """Something else is wrong with the metrics."""


class MetricsCacheIOError(OSError):
    """The metrics configuration cannot be read."""


class MetricsCachePyYamlError(yaml.YAMLError):
    """The metrics configuration is not YAML."""
