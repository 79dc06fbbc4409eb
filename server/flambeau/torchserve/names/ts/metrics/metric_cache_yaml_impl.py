"""A handler's metrics, listed in a file."""

from flambeau.torchserve.metrics.yaml_cache import MetricsCacheYamlImpl

__all__ = ["MetricsCacheYamlImpl"]
