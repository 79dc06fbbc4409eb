"""One model version's series, with the labels bound once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from flambeau.messages import MetricSample
from flambeau.metrics_board import MetricsBoard, Record
from flambeau.metrics_of_models import ModelMetricsBoard
from flambeau.metrics_own import OwnMetrics

OUTCOMES: Final = ("ok", "request_error", "overloaded", "worker_error", "cancelled")
HOST: Final = "Host"  # TorchServe's dimension `Level`
_UNNAMED: Final = "default"  # TorchServe's version of requests that name none
_HANDLER_TIME: Final = "HandlerTime"


class VersionMetrics:
    """What happens to a version's requests, batches and workers; told by whoever sees it."""

    def __init__(
        self,
        own: OwnMetrics,
        board: MetricsBoard,
        models: ModelMetricsBoard,
        *,
        model: str,
        version: str,
    ) -> None:
        # for the life of the version
        self._board = board
        self._models = models
        self._model = model
        self._version = version
        self._requests = {
            outcome: own.requests.labels(model, version, outcome) for outcome in OUTCOMES
        }
        self._request_s = own.request_s.labels(model, version)
        self._queue_wait_s = own.queue_wait_s.labels(model, version)
        self._batch_assembly_s = own.batch_assembly_s.labels(model, version)
        self._ipc_s = own.ipc_s.labels(model, version)
        self._handler_s = own.handler_s.labels(model, version)
        self._batch_size = own.batch_size.labels(model, version)
        self._worker_load_s = own.worker_load_s.labels(model, version)
        self._restarts = own.worker_restarts.labels(model, version)
        self._rerun = own.requests_rerun.labels(model, version)
        self._poison_found = own.poison_found.labels(model, version)
        self._output_dropped = own.output_dropped.labels(model, version)
        self._poison_refused = own.poison_refused.labels(model, version)
        self._named = _RequestRecords(board, model, version)
        self._unnamed = _RequestRecords(board, model, _UNNAMED)
        self._handler_ms = models.bind_time(model, _HANDLER_TIME)
        self._prediction_ms = models.bind_time(model, "PredictionTime")
        self._queue_ms = board.bind("QueueTime", HOST)
        self._worker_thread_ms = board.bind("WorkerThreadTime", HOST)
        # changes as workers come up
        self._worker_names: dict[str, None] = {}
        # set once a handler has told its time itself
        self._handler_tells_time = False

    def request_accepted(self, *, version_given: bool = True) -> None:
        """Count one request that goes to this version, even if the queue then refuses it.

        Args:
            version_given: Whether the request names the version.
        """
        self._records(version_given).requests(1.0)

    def request_done(self, *, outcome: str, duration_s: float, version_given: bool = True) -> None:
        """Count one answered request; `outcome` is one of `OUTCOMES`."""
        self._requests[outcome].inc()
        self._request_s.record(duration_s)
        self._records(version_given).latency_us(duration_s * 1e6)

    def batch_started(
        self,
        *,
        size: int,
        queue_waits_s: Sequence[float],
        versions_given: Sequence[bool] | None = None,
    ) -> None:
        """Count a batch that a worker gets.

        Args:
            size: Its requests, 1 or more.
            queue_waits_s: How long each of them that is new to a worker waited.
            versions_given: Whether each of those names the version; all do when it is None.
        """
        self._batch_size.record(size)
        if not queue_waits_s:  # a batch that goes on
            return
        self._batch_assembly_s.record(max(queue_waits_s) - min(queue_waits_s))
        for place, wait_s in enumerate(queue_waits_s):
            self._queue_wait_s.record(wait_s)
            named = versions_given is None or versions_given[place]
            self._records(named).queue_us(wait_s * 1e6)
        self._queue_ms(queue_waits_s[-1] * 1e3)

    def batch_done(
        self,
        *,
        handler_s: float,
        roundtrip_s: float | None = None,
        request_ids: Iterable[str] = (),
    ) -> None:
        """Count an answered batch.

        Args:
            handler_s: The handler's time.
            roundtrip_s: From sending the batch to its answer, if it was measured.
            request_ids: Whose requests they were, for the log.
        """
        self._handler_s.record(handler_s)
        if roundtrip_s is not None:
            overhead_s = max(0.0, roundtrip_s - handler_s)
            self._ipc_s.record(overhead_s)
            self._worker_thread_ms(overhead_s * 1e3)
        ids = ",".join(request_ids)
        self._prediction_ms(handler_s * 1e3, ids)
        if not self._handler_tells_time:
            self._handler_ms(handler_s * 1e3, ids)

    def samples(self, samples: Sequence[MetricSample]) -> None:
        """Take what handlers emitted."""
        if not self._handler_tells_time:
            self._handler_tells_time = any(each.name == _HANDLER_TIME for each in samples)
        self._models.record(self._model, samples)

    def worker_loaded(self, *, worker_id: str, load_s: float) -> None:
        """Note how long a worker took to load the model."""
        self._worker_load_s.record(load_s)
        name = f"W-{worker_id}-{self._model}_{self._version}"
        self._worker_names[name] = None
        self._board.bind("WorkerLoadTime", name, HOST)(load_s * 1e3)

    def worker_restarted(self) -> None:
        self._restarts.inc()

    def requests_rerun(self, number: int) -> None:
        """Count requests of a lost worker that run again."""
        self._rerun.inc(number)

    def poison_found(self) -> None:
        self._poison_found.inc()

    def poison_refused(self) -> None:
        self._poison_refused.inc()

    def output_dropped(self, num_lines: int) -> None:
        """Count lines of a worker's output that were left out."""
        self._output_dropped.inc(num_lines)

    def worker_removed(self, *, worker_id: str) -> None:
        """Forget a worker that will not be replaced."""
        self._forget(f"W-{worker_id}-{self._model}_{self._version}")

    def close(self) -> None:
        """Forget the version's workers; call it when the version has closed."""
        for name in list(self._worker_names):
            self._forget(name)

    def _forget(self, worker_name: str) -> None:
        self._worker_names.pop(worker_name, None)
        self._board.forget("WorkerLoadTime", worker_name, HOST)

    def _records(self, version_given: bool) -> _RequestRecords:  # noqa: FBT001  # its only meaning
        return self._named if version_given else self._unnamed


class _RequestRecords:
    """TorchServe's counters of requests; a series begins with its first request."""

    def __init__(self, board: MetricsBoard, model: str, version: str) -> None:
        self._board = board
        self._values = (model, version)

    @cached_property
    def requests(self) -> Record:
        return self._board.bind("ts_inference_requests_total", *self._values)

    @cached_property
    def latency_us(self) -> Record:
        return self._board.bind("ts_inference_latency_microseconds", *self._values)

    @cached_property
    def queue_us(self) -> Record:
        return self._board.bind("ts_queue_latency_microseconds", *self._values)
