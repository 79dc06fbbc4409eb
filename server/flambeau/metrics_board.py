"""TorchServe's metrics of the server itself: bound once, then recorded on the page or in the log.

    record = board.bind("QueueTime", "Host")
    record(1.5)

What the metrics configuration does not list goes nowhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, TypeAlias

from flambeau.config import MetricsMode
from flambeau.messages import MetricSpec
from flambeau.metrics_config import HOSTNAME, SERVER_METRICS
from flambeau.metrics_series import Family, Labels, number

_log = logging.getLogger(__name__)
server_log: Final = logging.getLogger("flambeau.metrics.server")

_LEGACY: Final = {
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
}
_LABELS: Final = {spec.name: tuple(spec.dimensions) for spec in SERVER_METRICS}

Record: TypeAlias = Callable[[float], None]
Clock: TypeAlias = Callable[[], float]


class MetricsBoard:
    """Owner of the listed metrics of the server."""

    def __init__(
        self, specs: Iterable[MetricSpec], *, mode: MetricsMode, hostname: str, clock: Clock
    ) -> None:
        """Begin with nothing recorded.

        Args:
            specs: What the metrics configuration lists under `ts_metrics`.
            mode: Where values go.
            hostname: This machine's name.
            clock: Seconds since the epoch.
        """
        # for the life of the server
        self._hostname = hostname
        self._clock = clock
        self._listed = {spec.name: spec for spec in specs if _is_usable(spec)}
        self._families = {
            name: Family(spec)
            for name, spec in self._listed.items()
            if mode is MetricsMode.PROMETHEUS or (mode is MetricsMode.LEGACY and name in _LEGACY)
        }

    def bind(self, name: str, *values: str) -> Record:
        """Where values of one series go.

        Args:
            name: One of `SERVER_METRICS`.
            values: Its labels' values in their order there, without the host's name.
        """
        spec = self._listed.get(name)
        if spec is None:
            return _nowhere
        labels = self._labels(spec, values)
        family = self._families.get(name)
        if family is not None:
            return family.labelled(labels).record
        return partial(self._write, spec, labels)

    def forget(self, name: str, *values: str) -> None:
        """Take a series off the page; the arguments are those it was bound with."""
        family = self._families.get(name)
        if family is not None:
            family.remove(self._labels(family.spec, values))

    def render(self, names: Collection[str]) -> str:
        """The page's lines; with `names`, only samples of these names."""
        return "".join(family.render(names) for family in self._families.values())

    def _labels(self, spec: MetricSpec, values: Sequence[str]) -> Labels:
        """The values under the listed names: by name where they are ours, else by place."""
        known = _LABELS[spec.name]
        given = (*values, self._hostname)
        if set(spec.dimensions) <= set(known):
            by_name = dict(zip(known, given, strict=True))
            return tuple((name, by_name[name]) for name in spec.dimensions)
        return tuple(zip(spec.dimensions, given, strict=True))

    def _write(self, spec: MetricSpec, labels: Labels, value: float) -> None:
        if server_log.isEnabledFor(logging.INFO):
            server_log.info(
                "%s", log_line(spec, value, labels, hostname=self._hostname, now=self._clock())
            )


def log_line(
    spec: MetricSpec,
    value: float,
    labels: Iterable[tuple[str, str]],
    *,
    hostname: str,
    now: float = 0.0,
    request_ids: str = "",
) -> str:
    """A metric as TorchServe logs it, without the time in front.

    `now` is in seconds since the epoch; the host's name has a place of its own.
    """
    dimensions = ",".join(
        f"{name}:{value}" for name, value in labels if name.lower() != HOSTNAME.lower()
    )
    requests = f",requestID:{request_ids}" if request_ids else ""
    line = (
        f"{spec.name}.{spec.unit}:{number(value)}|#{dimensions}|#hostname:{hostname}{requests},"
        f"timestamp:{int(now)}"
    )
    return " ".join(line.splitlines())  # model authors choose names, and may forge no line


def _is_usable(spec: MetricSpec) -> bool:
    """Whether the server measures it, and has values for its labels."""
    known = _LABELS.get(spec.name)
    if known is None:
        return False
    usable = set(spec.dimensions) <= set(known) or len(spec.dimensions) == len(known)
    if not usable:
        _log.warning(
            "metric %s is not kept: metrics_config gives it the dimensions %s, the server has %s",
            spec.name,
            ", ".join(spec.dimensions),
            ", ".join(known),
        )
    return usable


def _nowhere(value: float) -> None:
    """The metric is not listed."""


wall_clock: Final[Clock] = time.time
