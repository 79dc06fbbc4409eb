"""Who a listener is for."""

from __future__ import annotations

from enum import Enum


class Audience(str, Enum):
    """Who a listener is for; the name is in logs and metrics."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    METRICS = "metrics"
