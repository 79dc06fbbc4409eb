"""What one model version may set for itself: workers, batching, deadlines, devices.

Explicit arguments of a registration win over the archive's YAML, which wins over the server's
defaults. YAML keys are TorchServe's (`minWorkers`, `batchSize`, ...).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flambeau.errors import BadParameter
from flambeau.messages import IsolationLevel, OptimizeLevel

_log = logging.getLogger(__name__)

MAX_WORKERS = 1024  # per version; more is a slip of the finger on any machine of today


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """One version's settings; validated when built.

    Attributes:
        min_workers: Workers to keep, 0 to `MAX_WORKERS`.
        max_workers: At least `min_workers`.
        batch_size: Most requests per handler call, 1 or more; 1 turns batching off.
        max_batch_delay_ms: Longest time a batch that is not full may be held back, 0 or more.
        response_timeout_s: Seconds one handler call may take.
        startup_timeout_s: Seconds a worker may take until it is ready; 0 lets none be.
        max_retry_timeout_s: Seconds of failing in a row after which a worker is given up.
        job_queue_size: Requests that may wait, 1 or more.
        device_type: `cpu` or `gpu`; None takes GPUs when there are any.
        device_ids: GPUs to use; None for all.
        client_timeout_ms: Milliseconds from a request's arrival to its answer; 0 for no limit.
        use_job_ticket: Take a request only when a worker is idle.
        sequence_batching: Requests of one sequence go to one worker, in order.
        continuous_batching: Requests join and leave a running batch between handler calls.
        sequence_max_idle_ms: Milliseconds after which a silent sequence ends; 0 for never.
        sequence_timeout_ms: Milliseconds after which any sequence ends; 0 for never.
        max_num_sequence: Sequences of the version at a time, 1 or more.
        max_sequence_job_queue_size: Requests that may wait per sequence, 1 or more.
        async_communication: The handler is a coroutine and answers requests as they come.
        use_venv: Its requirements get an environment of their own.
        parallel_type: `pp`, `tp`, `pptp`, `custom`, or empty for one process per worker.
        parallel_level: GPUs (and processes) per worker, 1 or more.
        retry: Whether requests of a batch that failed may be run again, apart from each other.
        share_weights: Whether the model is loaded once for all workers on the CPU; None where its
            handler is a built-in one.
        threads_per_worker: Threads one operation may use on the CPU; 0 shares the CPUs out evenly.
        priority_header: The request header that says how urgent a request is; empty for none.
        optimize: How far workers may change the model to make it faster.
        isolation: How far workers are kept from the rest of the machine.
        allow_network: Whether fenced workers may use TCP.
        read_paths: What fenced workers may read beside what they need.
        write_paths: What they may write, too.
        max_memory_bytes: Memory of a worker and what it has started; 0 for no limit.
        quarantine_s: Seconds for which a request that ended two workers is refused; 0 for none.
    """

    min_workers: int = 0
    max_workers: int = 0
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    response_timeout_s: float = 120.0
    startup_timeout_s: float = 120.0
    max_retry_timeout_s: float = 300.0
    job_queue_size: int = 100
    device_type: str | None = None
    device_ids: tuple[int, ...] | None = None
    client_timeout_ms: int = 0
    use_job_ticket: bool = False
    sequence_batching: bool = False
    continuous_batching: bool = False
    sequence_max_idle_ms: int = 0
    sequence_timeout_ms: int = 0
    max_num_sequence: int = 1
    max_sequence_job_queue_size: int = 1
    async_communication: bool = False
    use_venv: bool = False
    parallel_type: str = ""
    parallel_level: int = 1
    retry: bool = True
    threads_per_worker: int = 0
    share_weights: bool | None = None
    priority_header: str = ""
    optimize: OptimizeLevel = OptimizeLevel.SAFE
    isolation: IsolationLevel = IsolationLevel.BASIC
    allow_network: bool = False
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    max_memory_bytes: int = 0
    quarantine_s: float = 300.0

    def __post_init__(self) -> None:
        limits = {
            "initial_workers (min_worker)": (self.min_workers, 0, MAX_WORKERS),
            "max_worker": (self.max_workers, 0, MAX_WORKERS),
            "batch_size": (self.batch_size, 1, 65536),
            "max_batch_delay": (self.max_batch_delay_ms, 0, 3_600_000),
            "response_timeout": (self.response_timeout_s, 0.001, 86400),
            "startup_timeout": (self.startup_timeout_s, 0, 86400),
            "job_queue_size": (self.job_queue_size, 1, 1_000_000),
            "clientTimeoutInMills": (self.client_timeout_ms, 0, 86_400_000),
            "sequenceMaxIdleMSec": (self.sequence_max_idle_ms, 0, 86_400_000_000),
            "sequenceTimeoutMSec": (self.sequence_timeout_ms, 0, 86_400_000_000),
            "maxNumSequence": (self.max_num_sequence, 1, 1_000_000),
            "maxSequenceJobQueueSize": (self.max_sequence_job_queue_size, 1, 1_000_000),
            "parallelLevel": (self.parallel_level, 1, 1024),
            "threadsPerWorker": (self.threads_per_worker, 0, 1024),
            "maxMemory": (self.max_memory_bytes, 0, 1 << 50),
            "quarantineSec": (self.quarantine_s, 0, 86400),
        }
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise BadParameter(f"{name} is {value}; use {low} to {high}")
        if self.max_workers < self.min_workers:
            raise BadParameter("max_worker cannot be less than min_worker.")  # TorchServe's text

    @property
    def may_rerun(self) -> bool:
        """Whether a request may be run again; within a sequence it would meet another state."""
        return self.retry and not self.sequence_batching

    def with_yaml(self, document: Mapping[str, Any], *, by_operator: bool = False) -> ModelSettings:
        """These settings with the archive's wishes on top, or with those of who runs the server.

        A value of the wrong type is ignored with a warning, as TorchServe does. So is what an
        archive asks for beyond what its workers may do: it may have itself kept apart further, and
        no less.
        """
        changes: dict[str, Any] = {}
        for key, (name, kind) in _YAML_KEYS.items():
            value = document.get(key)
            if value is None:
                continue
            if isinstance(value, kind) and isinstance(value, bool) is (kind is bool):
                changes[name] = tuple(value) if isinstance(value, list) else value
            else:
                _log.warning("model YAML key %s is %r; expected %s; ignored", key, value, kind)
        if changes.get("parallel_level", 1) > 1:
            _log.warning(
                "model YAML asks for %s devices per worker (parallelLevel); each worker has one",
                changes["parallel_level"],
            )
        low = changes.pop("min_workers", 0)
        high = changes.pop("max_workers", low)
        if low > 0 and high >= low:
            changes |= {"min_workers": low, "max_workers": high}
        if "optimize" in document:
            changes["optimize"] = _optimize_level(document["optimize"], self.optimize)
        if "isolation" in document:
            changes["isolation"] = _isolation(document["isolation"], self.isolation)
        if not by_operator:
            self._take_off_liberties(changes)
        return replace(self, **changes)

    def _take_off_liberties(self, changes: dict[str, Any]) -> None:
        """Leave out what an archive may not decide for itself."""
        refused = [name for name in _LIBERTIES if name in changes]
        order = list(IsolationLevel)
        if order.index(changes.get("isolation", self.isolation)) < order.index(self.isolation):
            refused.append("isolation")
        limit = self.max_memory_bytes
        if limit and not 0 < changes.get("max_memory_bytes", limit) <= limit:
            refused.append("max_memory_bytes")
        for name in refused:
            _log.warning(
                "the archive's YAML sets %s to %r, which is for model_settings of the server's "
                "configuration to decide; ignored",
                name,
                changes.pop(name),
            )

    def with_workers(self, low: int, high: int | None = None) -> ModelSettings:
        """The same version with other worker counts; `high` defaults to `low`."""
        return replace(self, min_workers=low, max_workers=low if high is None else high)


_LIBERTIES = ("allow_network", "read_paths", "write_paths")


def _optimize_level(value: object, default: OptimizeLevel) -> OptimizeLevel:
    """YAML reads a plain `off` as false."""
    value = OptimizeLevel.OFF.value if value is False else value
    if value in {level.value for level in OptimizeLevel}:
        return OptimizeLevel(value)
    _log.warning("model YAML key optimize is %r; expected off, safe or auto; ignored", value)
    return default


def _isolation(value: object, default: IsolationLevel) -> IsolationLevel:
    """YAML reads a plain `off` as false."""
    value = IsolationLevel.OFF.value if value is False else value
    if value in {level.value for level in IsolationLevel}:
        return IsolationLevel(value)
    _log.warning("model YAML key isolation is %r; expected off, basic or strict; ignored", value)
    return default


_YAML_KEYS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "minWorkers": ("min_workers", int),
    "maxWorkers": ("max_workers", int),
    "batchSize": ("batch_size", int),
    "maxBatchDelay": ("max_batch_delay_ms", int),
    "responseTimeout": ("response_timeout_s", (int, float)),
    "startupTimeout": ("startup_timeout_s", (int, float)),
    "maxRetryTimeoutInSec": ("max_retry_timeout_s", (int, float)),
    "jobQueueSize": ("job_queue_size", int),
    "deviceType": ("device_type", str),
    "deviceIds": ("device_ids", list),
    "clientTimeoutInMills": ("client_timeout_ms", int),
    "useJobTicket": ("use_job_ticket", bool),
    "sequenceBatching": ("sequence_batching", bool),
    "continuousBatching": ("continuous_batching", bool),
    "sequenceMaxIdleMSec": ("sequence_max_idle_ms", int),
    "sequenceTimeoutMSec": ("sequence_timeout_ms", int),
    "maxNumSequence": ("max_num_sequence", int),
    "maxSequenceJobQueueSize": ("max_sequence_job_queue_size", int),
    "asyncCommunication": ("async_communication", bool),
    "useVenv": ("use_venv", bool),
    "parallelType": ("parallel_type", str),
    "parallelLevel": ("parallel_level", int),
    "retry": ("retry", bool),
    "shareWeights": ("share_weights", bool),
    "threadsPerWorker": ("threads_per_worker", int),
    "priorityHeader": ("priority_header", str),
    "allowNetwork": ("allow_network", bool),
    "readPaths": ("read_paths", list),
    "writePaths": ("write_paths", list),
    "maxMemory": ("max_memory_bytes", int),
    "quarantineSec": ("quarantine_s", (int, float)),
}
