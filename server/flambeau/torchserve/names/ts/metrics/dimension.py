"""A label of a metric."""

from flambeau.handler_metric import Dimension

__all__ = ["Dimension"]
