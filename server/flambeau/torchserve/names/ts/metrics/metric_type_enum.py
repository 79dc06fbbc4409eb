"""Kinds of metrics."""

from flambeau.messages import MetricKind as MetricTypes

__all__ = ["MetricTypes"]
