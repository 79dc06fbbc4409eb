"""Words for units."""

from flambeau.torchserve.metrics.old import Units

__all__ = ["Units"]
