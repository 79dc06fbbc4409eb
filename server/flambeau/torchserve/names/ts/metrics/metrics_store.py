"""Early releases' `context.metrics`; deprecated."""

from flambeau.torchserve.metrics.old import MetricsStore

__all__ = ["MetricsStore"]
