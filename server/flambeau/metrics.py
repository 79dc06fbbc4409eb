"""Every Prometheus series of the server, in one object that is handed to whoever counts.

Names starting with `flambeau_` are ours (`metrics_own.py`); the others are TorchServe's, spelt as
its dashboards expect: the server's (`metrics_board.py`) and handlers' (`metrics_of_models.py`).
Labels come from registered models and from handlers, never from a request.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from prometheus_client import Counter, generate_latest

from flambeau.config import MetricsMode
from flambeau.messages import MetricSpec
from flambeau.metrics_board import Clock, MetricsBoard
from flambeau.metrics_config import MetricsConfig, series_names
from flambeau.metrics_of_models import ModelMetricsBoard
from flambeau.metrics_of_version import HOST, OUTCOMES, VersionMetrics
from flambeau.metrics_own import OwnMetrics, VersionGauges
from flambeau.system_metrics import SystemValue

__all__ = ["CONTENT_TYPE", "OUTCOMES", "Metrics", "VersionGauges", "VersionMetrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Owner of all series; one per server.

    Attributes:
        own: Flambeau's own.
        board: TorchServe's of the server.
        models: TorchServe's of handlers.
        auto_detect: Whether handlers may emit metrics that are not listed.
    """

    def __init__(
        self,
        config: MetricsConfig | None = None,
        *,
        mode: MetricsMode = MetricsMode.PROMETHEUS,
        auto_detect: bool = False,
        hostname: str | None = None,
        clock: Clock = time.time,
    ) -> None:
        """Begin counting.

        Args:
            config: Which of TorchServe's metrics are kept; its own default if None.
            mode: Where those go.
            auto_detect: Take metrics from handlers that are not listed.
            hostname: The label's value; this machine's name if None.
            clock: Seconds since the epoch, for lines in the log.
        """
        listed = config or MetricsConfig.read(None)
        name = hostname or socket.gethostname()
        # for the life of the server
        self.auto_detect = auto_detect
        self._model_specs = list(listed.model)
        self.own = OwnMetrics()
        self.board = MetricsBoard(listed.server, mode=mode, hostname=name, clock=clock)
        self.models = ModelMetricsBoard(
            listed.model,
            auto_detect=auto_detect,
            taken=[each for spec in listed.server for each in series_names(spec.name, spec.kind)],
            mode=mode,
            hostname=name,
            clock=clock,
            dropped=lambda model, reason: self.own.values_dropped.labels(model, reason).inc(),
        )
        self.swaps = self.own.swaps
        self._response_counts: dict[tuple[str, int], Counter] = {}
        self._responses = {kind: self.board.bind(f"Requests{kind}XX", HOST) for kind in (2, 4, 5)}

    @property
    def model_specs(self) -> list[MetricSpec]:
        """The metrics that handlers may emit, for workers to know."""
        return list(self._model_specs)

    def version(self, *, model: str, version: str) -> VersionMetrics:
        """The series of one model version."""
        return VersionMetrics(self.own, self.board, self.models, model=model, version=version)

    def watch(
        self, *, versions: Callable[[], Iterable[VersionGauges]], ready: Callable[[], bool]
    ) -> None:
        """Read gauges from their owners at each scrape instead of keeping copies."""
        self.own.watch(versions=versions, ready=ready)

    def response_sent(self, *, listener: str, status: int) -> None:
        """Count one HTTP response; anything but 2xx and 4xx counts as 5xx, as in TorchServe."""
        count = self._response_counts.get((listener, status))
        if count is None:
            count = self.own.responses.labels(listener, str(status))
            self._response_counts[listener, status] = count
        count.inc()
        kind = status // 100
        self._responses[kind if kind in {2, 4} else 5](1.0)

    def token_refused(self, role: str) -> None:
        """Count a call without the right token.

        Args:
            role: What its token would have been for.
        """
        self.own.token_refusals.labels(role).inc()

    def system_sampled(self, values: Iterable[SystemValue]) -> None:
        """Record the state of the machine."""
        for value in values:
            where = (HOST,) if value.device is None else (HOST, value.device)
            self.board.bind(value.name, *where)(value.value)

    def render(self, names: Collection[str] = ()) -> bytes:
        """The exposition text; with `names`, only the samples of exactly these names."""
        source = self.own.registry
        ours = generate_latest(source.restricted_registry(names) if names else source)
        return ours + f"{self.board.render(names)}{self.models.render(names)}".encode()
