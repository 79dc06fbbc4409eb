"""Metrics as JSON; deprecated."""

from flambeau.torchserve.metrics.old import MetricEncoder

__all__ = ["MetricEncoder"]
