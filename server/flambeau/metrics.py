"""Every Prometheus series of the server, in one object that is handed to whoever counts.

Names starting with `flambeau_` are ours and aggregate over processes (histograms, not averages);
`ts_*` and `Requests2XX`... are TorchServe's, spelt as its dashboards expect. Labels come from
registered models only, never from a request.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flambeau.messages import MetricSample

# seconds: from a tiny model on a fast machine to a handler's default deadline
_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_VERSION = ("model", "version")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionGauges:
    """One version's state at the moment of a scrape."""

    model: str
    version: str
    is_default: bool
    num_waiting: int
    workers_by_state: dict[str, int]


class VersionMetrics:
    """One version's series, with the labels bound once."""

    def __init__(self, metrics: Metrics, *, model: str, version: str) -> None:
        self._requests = {
            outcome: metrics.requests.labels(model, version, outcome) for outcome in OUTCOMES
        }
        self._request_s = metrics.request_s.labels(model, version)
        self._queue_wait_s = metrics.queue_wait_s.labels(model, version)
        self._handler_s = metrics.handler_s.labels(model, version)
        self._batch_size = metrics.batch_size.labels(model, version)
        self._restarts = metrics.worker_restarts.labels(model, version)
        self._ts_queue_us = metrics.ts_queue_us.labels(model, version)
        self._ts_inference_us = metrics.ts_inference_us.labels(model, version)
        self._ts_requests = metrics.ts_requests.labels(model, version)

    def request_accepted(self, *, version_given: bool = True) -> None:
        """Count one request that goes to this version, even if the queue then refuses it."""
        self._ts_requests.inc()

    def request_done(self, *, outcome: str, duration_s: float, version_given: bool = True) -> None:
        """Count one answered request; `outcome` is one of `OUTCOMES`."""
        self._requests[outcome].inc()
        self._request_s.observe(duration_s)
        self._ts_inference_us.inc(duration_s * 1e6)

    def batch_started(
        self,
        *,
        size: int,
        queue_waits_s: Sequence[float],
        versions_given: Sequence[bool] | None = None,
    ) -> None:
        """Count a batch that a worker gets, with each request's wait."""
        self._batch_size.observe(size)
        for wait_s in queue_waits_s:
            self._queue_wait_s.observe(wait_s)
            self._ts_queue_us.inc(wait_s * 1e6)

    def batch_done(self, *, handler_s: float, roundtrip_s: float | None = None) -> None:
        """Count an answered batch: the handler's time, and from sending it to its answer."""
        self._handler_s.observe(handler_s)

    def samples(self, samples: Sequence[MetricSample]) -> None:
        """Take what handlers emitted."""

    def worker_loaded(self, *, worker_id: str, load_s: float) -> None:
        """Note how long a worker took to load the model."""

    def worker_restarted(self) -> None:
        self._restarts.inc()

    def close(self) -> None:
        """Forget the version's gauges; call it when the version has closed."""


OUTCOMES = ("ok", "request_error", "overloaded", "worker_error", "cancelled")


class Metrics:
    """Owner of the Prometheus registry; one per server."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "flambeau_requests",
            "Predictions answered, by outcome",
            (*_VERSION, "outcome"),
            registry=registry,
        )
        self.request_s = Histogram(
            "flambeau_request_seconds",
            "From the whole request read to the answer handed over",
            _VERSION,
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_wait_s = Histogram(
            "flambeau_queue_wait_seconds",
            "Waiting for a worker",
            _VERSION,
            buckets=_SECONDS,
            registry=registry,
        )
        self.handler_s = Histogram(
            "flambeau_handler_seconds",
            "One handler call, for a whole batch",
            _VERSION,
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "flambeau_batch_size",
            "Requests per handler call",
            _VERSION,
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        self.worker_restarts = Counter(
            "flambeau_worker_restarts",
            "Workers replaced after they died or missed a deadline",
            _VERSION,
            registry=registry,
        )
        self.responses = Counter(
            "flambeau_http_responses",
            "HTTP responses, by listener and status",
            ("listener", "status"),
            registry=registry,
        )
        self.swaps = Counter(
            "flambeau_default_changes",
            "Times the default version changed",
            ("model",),
            registry=registry,
        )
        self._ready = Gauge(
            "flambeau_ready", "1 when /readyz answers 200, else 0", registry=registry
        )
        ProcessCollector(registry=registry)
        # TorchServe's counters keep their exact names, which a Counter would extend by `_total`
        self.ts_requests = _ExactCounter("ts_inference_requests_total")
        self.ts_inference_us = _ExactCounter("ts_inference_latency_microseconds")
        self.ts_queue_us = _ExactCounter("ts_queue_latency_microseconds")
        self._ts_responses = {
            kind: _ExactCounter(f"Requests{kind}XX", labels=(("Level", "Host"),))
            for kind in (2, 4, 5)
        }
        self._response_counts = {kind: c.labels() for kind, c in self._ts_responses.items()}

    def version(self, *, model: str, version: str) -> VersionMetrics:
        """The series of one model version."""
        return VersionMetrics(self, model=model, version=version)

    def watch(
        self,
        *,
        versions: Callable[[], Iterable[VersionGauges]],
        ready: Callable[[], bool],
    ) -> None:
        """Read gauges from their owners at each scrape instead of keeping copies."""
        self._registry.register(_VersionCollector(versions))
        self._ready.set_function(lambda: float(ready()))

    def response_sent(self, *, listener: str, status: int) -> None:
        """Count one HTTP response; anything but 2xx and 4xx counts as 5xx, as in TorchServe."""
        self.responses.labels(listener, str(status)).inc()
        kind = status // 100
        self._response_counts[kind if kind in {2, 4} else 5].inc()

    def render(self, names: Collection[str] = ()) -> bytes:
        """The exposition text; with `names`, only the samples of exactly these names."""
        source = self._registry
        ours = generate_latest(source.restricted_registry(names) if names else source)
        theirs = [self.ts_requests, self.ts_inference_us, self.ts_queue_us]
        counters = [*self._ts_responses.values(), *theirs]
        exact = "".join(
            counter.render() for counter in counters if not names or counter.name in names
        )
        return ours + exact.encode()


class _ExactCounter:
    """A counter rendered under exactly its name, in TorchServe's label style."""

    def __init__(self, name: str, *, labels: tuple[tuple[str, str], ...] = ()) -> None:
        self.name = name
        self._fixed = labels
        self._hostname = socket.gethostname()
        self._series: dict[tuple[str, ...], _ExactSeries] = {}

    def labels(self, *model_and_version: str) -> _ExactSeries:
        return self._series.setdefault(model_and_version, _ExactSeries())

    def render(self) -> str:
        unit = "Microseconds" if self.name.endswith("microseconds") else "Count"
        lines = [
            f"# HELP {self.name} Torchserve prometheus counter metric with unit: {unit}",
            f"# TYPE {self.name} counter",
        ]
        lines += [f"{self.name}{{{labels}}} {value}" for labels, value in self._samples()]
        return "\n".join(lines) + "\n" if len(lines) > 2 else ""

    def _samples(self) -> Iterator[tuple[str, float]]:
        for values, series in self._series.items():
            if self._fixed:
                pairs = [*self._fixed, ("Hostname", self._hostname)]
            else:
                names = ("model_name", "model_version")
                pairs = [*zip(names, values, strict=True), ("hostname", self._hostname)]
            yield "".join(f'{key}="{_escape(value)}",' for key, value in pairs), series.value


class _ExactSeries:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


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


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
