"""The machine's state."""

from flambeau.torchserve.metrics.machine import collect_all, read_metrics

__all__ = ["collect_all", "read_metrics"]
