"""Where a server with TorchServe's configuration writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the server writes.

    Attributes:
        logs: Logs, and snapshots of the configuration.
        metrics: Logs of metrics.
    """

    logs: Path
    metrics: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Places:
        """`LOG_LOCATION` and `METRICS_LOCATION`, or `logs` in the current directory."""
        return cls(
            logs=Path(environment.get("LOG_LOCATION") or "logs").absolute(),
            metrics=Path(environment.get("METRICS_LOCATION") or "logs").absolute(),
        )
