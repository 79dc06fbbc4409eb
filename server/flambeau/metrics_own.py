"""Flambeau's own series, which aggregate over servers: histograms, not averages.

Labels come from registered models only, never from a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from flambeau.metrics_series import HistogramSeries

# seconds: from a tiny model on a fast machine to a handler's default deadline
_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_FINE_SECONDS: Final = (0.00005, 0.0001, 0.00025, *_SECONDS[:-3])  # for what is mostly overhead
_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_VERSION: Final = ("model", "version")


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionGauges:
    """One version's state at the moment of a scrape."""

    model: str
    version: str
    is_default: bool
    num_waiting: int
    workers_by_state: dict[str, int]


class Histogram(Collector):
    """A histogram for each version, which records faster than the library's: no lock, no loop."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(map(float, bounds))
        self._series: dict[tuple[str, str], HistogramSeries] = {}

    def labels(self, model: str, version: str) -> HistogramSeries:
        """The version's series, made when it is new."""
        return self._series.setdefault((model, version), HistogramSeries(self._bounds))

    def describe(self) -> list[HistogramMetricFamily]:
        """The family without samples, whose names `name[]` is to find."""
        return [HistogramMetricFamily(self._name, self._text, labels=_VERSION)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        (family,) = self.describe()
        for labels, series in self._series.items():
            family.add_metric(labels, list(series.totals()), series.value)
        yield family


class OwnMetrics:
    """Owner of the Prometheus registry."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(f"flambeau_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, bounds: Sequence[float] = _SECONDS) -> Histogram:
            found = Histogram(f"flambeau_{name}", text, bounds)
            registry.register(found)
            return found

        self.requests = counter(
            "requests", "Predictions answered, by outcome", (*_VERSION, "outcome")
        )
        self.request_s = histogram(
            "request_seconds", "From the whole request read to the answer handed over"
        )
        self.queue_wait_s = histogram("queue_wait_seconds", "Waiting for a worker")
        self.batch_assembly_s = histogram(
            "batch_assembly_seconds",
            "Between the arrivals of a batch's first and last request",
            _FINE_SECONDS,
        )
        self.ipc_s = histogram(
            "ipc_seconds",
            "From sending a batch to a worker to its answer, less the handler's time",
            _FINE_SECONDS,
        )
        self.handler_s = histogram("handler_seconds", "One handler call, for a whole batch")
        self.batch_size = histogram("batch_size", "Requests per handler call", _BATCH_SIZES)
        self.worker_load_s = histogram(
            "worker_load_seconds", "Importing the handler and loading the model, in a new worker"
        )
        self.worker_restarts = counter(
            "worker_restarts", "Workers replaced after they died or missed a deadline", _VERSION
        )
        self.requests_rerun = counter(
            "requests_rerun", "Requests of lost workers that ran again, each alone", _VERSION
        )
        self.poison_found = counter(
            "poison_requests", "Requests found to end workers, and refused for a while", _VERSION
        )
        self.poison_refused = counter(
            "poison_requests_refused", "Requests refused because they ended workers", _VERSION
        )
        self.output_dropped = counter(
            "worker_output_lines_dropped",
            "Lines that workers printed faster than they are logged",
            _VERSION,
        )
        self.responses = counter(
            "http_responses", "HTTP responses, by listener and status", ("listener", "status")
        )
        self.token_refusals = counter(
            "token_refusals", "Calls without the right token, by what they wanted", ("role",)
        )
        self.swaps = counter("default_changes", "Times the default version changed", ("model",))
        self.values_dropped = counter(
            "metric_values_dropped",
            "Values of handlers' metrics that got no series of their own",
            ("model", "reason"),
        )
        self._ready = Gauge(
            "flambeau_ready", "1 when /readyz answers 200, else 0", registry=registry
        )
        ProcessCollector(registry=registry)

    def watch(
        self, *, versions: Callable[[], Iterable[VersionGauges]], ready: Callable[[], bool]
    ) -> None:
        """Read gauges from their owners at each scrape instead of keeping copies."""
        self.registry.register(_VersionCollector(versions))
        self._ready.set_function(lambda: float(ready()))


class _VersionCollector(Collector):
    def __init__(self, versions: Callable[[], Iterable[VersionGauges]]) -> None:
        self._versions = versions

    def describe(self) -> Sequence[GaugeMetricFamily]:
        """The families without samples; without this, `name[]` does not find them."""
        return self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth, workers, default = self._families()
        for gauges in self._versions():
            labels = (gauges.model, gauges.version)
            depth.add_metric(labels, gauges.num_waiting)
            default.add_metric(labels, float(gauges.is_default))
            for state, count in gauges.workers_by_state.items():
                workers.add_metric((*labels, state), count)
        yield from (depth, workers, default)

    def _families(self) -> list[GaugeMetricFamily]:
        return [
            GaugeMetricFamily(
                "flambeau_queue_depth", "Requests waiting for a worker", labels=_VERSION
            ),
            GaugeMetricFamily("flambeau_workers", "Workers by state", labels=(*_VERSION, "state")),
            GaugeMetricFamily(
                "flambeau_default_version",
                "1 for the version that answers by default",
                labels=_VERSION,
            ),
        ]
