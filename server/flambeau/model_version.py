"""One version of a model: its workers, its queue, and its way from starting to closed.

    starting -> ready -> draining -> closed
        `-> failed -> closed

The state is derived from the workers; each worker looks after itself (`worker_slot.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path

import msgspec

import flambeau
from flambeau.batch_queue import BatchQueue
from flambeau.batcher import Batcher, BatchPolicy
from flambeau.child import SharedModel, StartWorker, start_fresh
from flambeau.devices import DeviceCycle
from flambeau.errors import NoWorker
from flambeau.manifest import Manifest
from flambeau.messages import (
    SEQUENCE_HEADERS,
    BatchMode,
    InferenceRequest,
    Isolation,
    IsolationLevel,
    Loaded,
    LoadModel,
    LoadStage,
    MetricSpec,
    OptimizeWish,
)
from flambeau.metrics import VersionGauges, VersionMetrics
from flambeau.model_settings import ModelSettings
from flambeau.pending import PendingRequest, in_sequence
from flambeau.priority_queue import PriorityQueue
from flambeau.request_queue import RequestQueue
from flambeau.restart_limit import RestartLimit
from flambeau.sequence_queue import SequenceLimits, SequenceQueue
from flambeau.signing import UNCHECKED, Verdict
from flambeau.worker_slot import SlotObserver, WorkerSlot, WorkerSpec, WorkerState

_OPTIMIZING_S = 3.0  # a start may take so much longer, once per archive and machine
_ON_ITS_WAY = (WorkerState.STARTING, WorkerState.RESTARTING)
_COMING = (WorkerState.READY, WorkerState.STARTING, WorkerState.RESTARTING)


def _batch_mode(settings: ModelSettings) -> BatchMode:
    if settings.async_communication:
        return BatchMode.CONCURRENT
    return BatchMode.CONTINUOUS if settings.continuous_batching else BatchMode.IN_TURN


class VersionState(str, Enum):
    """Where a version is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An unpacked archive, ready to be loaded by workers.

    Attributes:
        url: The archive as the registration named it.
        digest: SHA-256 of the archive, hex.
        model_dir: Where it is unpacked.
        manifest: What it says about itself.
        handler: Overrides the manifest's handler when not None.
        python: The interpreter of its workers; None for the server's own.
        downloaded: The copy in the store that goes away with the version, or None.
        is_part: Whether it serves something else, which lists it, and is no model of its own.
        at_startup: Whether it is served since the server started.
        signature: Who has signed the archive, as far as that is known.
    """

    url: str
    digest: str
    model_dir: Path
    manifest: Manifest
    handler: str | None = None
    python: Path | None = None
    downloaded: Path | None = None
    is_part: bool = False
    at_startup: bool = False
    signature: Verdict = UNCHECKED


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What all versions of one server share.

    Attributes:
        devices: Deals out a device for each worker.
        environment: The environment of every worker.
        max_response_bytes: Largest answer.
        fixed_batch_window: Hold batches back as TorchServe does.
        worker_module: What `python -m` runs as a worker.
        start_process: Where worker processes come from.
        forget: Told that no more workers will share a model.
        service_envelope: The envelope around every handler, or None.
        decode_inputs: Whether JSON and text reach handlers decoded.
        limit_max_image_pixels: What handlers read under that name.
        model_metrics: The metrics that handlers may emit.
        metrics_auto_detect: Whether they may emit others, too.
        sequence_headers: Names of the headers with a sequence's id, start and end.
        shows_digests: Whether answers say which archive they come from.
        limits: Of every worker's resources.
        worker_ids: Numbers for workers, rising from 9000 as TorchServe's ports did.
    """

    devices: DeviceCycle
    environment: Mapping[str, str]
    max_response_bytes: int
    fixed_batch_window: bool = False
    worker_module: str = "flambeau.worker"
    start_process: StartWorker = start_fresh
    forget: Callable[[SharedModel], None] = lambda _: None
    service_envelope: str | None = None
    decode_inputs: bool = True
    limit_max_image_pixels: bool = True
    model_metrics: Sequence[MetricSpec] = ()
    metrics_auto_detect: bool = False
    sequence_headers: tuple[str, str, str] = SEQUENCE_HEADERS
    shows_digests: bool = False
    limits: Isolation = field(default_factory=Isolation)
    worker_ids: Iterator[int] = field(default_factory=lambda: itertools.count(9000))


class ModelVersion(SlotObserver):
    """Owner of one version's workers and requests."""

    def __init__(
        self,
        package: Package,
        *,
        model: str,
        version: str,
        settings: ModelSettings,
        host: Host,
        metrics: VersionMetrics,
    ) -> None:
        # for the life of the version
        self.package = package
        self.model = model
        self.version = version
        self.metrics = metrics
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._mode = _batch_mode(settings)
        self._scratch = package.model_dir.parent / f"{package.model_dir.name}.scratch"
        self._batcher = Batcher(
            self._queue(settings),
            BatchPolicy(
                label=f'Model "{model}"',
                concurrency=1 if self._mode is BatchMode.IN_TURN else settings.batch_size,
                max_batch_size=settings.batch_size,
                retry=settings.may_rerun,
                quarantine_s=settings.quarantine_s,
                client_timeout_s=settings.client_timeout_ms / 1000,
                needs_free_worker=settings.use_job_ticket,
            ),
            observer=metrics,
            loop=self._loop,
            awaits_worker=lambda: any(slot.state in _ON_ITS_WAY for slot in self._slots),
        )
        self._restarts = RestartLimit()
        # changes with scaling
        self.settings = settings
        self._slots: list[WorkerSlot] = []
        # while there are workers
        self._shared: SharedModel | None = None
        # told about each worker's progress until it is ready; for a deployment's caller
        self.on_stage: Callable[[LoadStage], None] = lambda _: None
        # changes once each
        self._draining = False
        self._closed = False

    # what the registry and the API ask

    @property
    def state(self) -> VersionState:
        """Derived from the workers; never stored."""
        if self._closed:
            return VersionState.CLOSED
        if self._draining:
            return VersionState.DRAINING
        states = {slot.state for slot in self._slots}
        if WorkerState.READY in states:
            return VersionState.READY
        if states and states <= {WorkerState.FAILED, WorkerState.STOPPING}:
            return VersionState.FAILED
        return VersionState.STARTING

    @property
    def reason(self) -> str:
        """Why it failed, or what its last worker died of; empty when all is well."""
        return next((slot.reason for slot in reversed(self._slots) if slot.reason), "")

    @property
    def slots(self) -> Sequence[WorkerSlot]:
        """The workers' places, oldest first."""
        return tuple(self._slots)

    @property
    def num_waiting(self) -> int:
        """Requests that no worker has yet."""
        return self._batcher.num_waiting

    @property
    def num_unanswered(self) -> int:
        """Requests waiting or running."""
        return self._batcher.num_waiting + self._batcher.num_running

    @property
    def queue_room(self) -> int:
        return self._batcher.room

    @property
    def is_healthy(self) -> bool:
        """Whether as many workers as asked for are ready or on their way back."""
        lost = {WorkerState.FAILED, WorkerState.STOPPING}
        return sum(s.state not in lost for s in self._slots) >= self.settings.min_workers

    @property
    def shown_digest(self) -> str:
        """The archive's SHA-256, if answers are to tell it; else empty."""
        return self.package.digest if self._host.shows_digests else ""

    @property
    def sequence_header(self) -> str:
        """The header with a sequence's id, in lower case."""
        return self._host.sequence_headers[0].lower()

    def gauges(self, *, is_default: bool) -> VersionGauges:
        """What a scrape shows."""
        counts = Counter(slot.state.value for slot in self._slots)
        return VersionGauges(
            model=self.model,
            version=self.version,
            is_default=is_default,
            num_waiting=self.num_waiting,
            workers_by_state={state.value: counts[state.value] for state in WorkerState},
        )

    def submit(
        self,
        request: InferenceRequest,
        *,
        version_given: bool = True,
        on_result: Callable[[PendingRequest], None] | None = None,
    ) -> PendingRequest:
        """Queue one request for the next free worker.

        Args:
            request: What the worker will see.
            version_given: Whether the client asked for this version, not for the default.
            on_result: Called once it is resolved.

        Raises:
            NoWorker: No worker is ready or on its way.
            QueueFull: Too many requests wait already.
        """
        self.metrics.request_accepted(version_given=version_given)
        for slot in self._slots:
            if slot.state in _COMING:
                break
        else:
            raise NoWorker(self._no_worker_text())
        if not self.settings.sequence_batching:
            return self._batcher.submit(request, version_given=version_given, on_result=on_result)
        request, tag = in_sequence(request, self._host.sequence_headers)
        return self._batcher.submit(
            request, sequence=tag, version_given=version_given, on_result=on_result
        )

    def end_sequence(self, sequence_id: str) -> None:
        """No more requests of a sequence will come; unknown ids are none of our business."""
        self._batcher.end_sequence(sequence_id)

    # changing it

    async def scale(self, low: int, high: int) -> None:
        """Bring the number of workers to at least `low` and at most `high`.

        Returns when new workers are ready and surplus ones are gone.

        Raises:
            BadParameter: A count out of range.
            LoadFailed, OutOfResources, WorkerTimeout, WorkerDied: A new worker did not become
                ready; the ones that did stay.
        """
        new = self.start_scaling(low, high)
        kept = self._kept(high)
        await self._retire([slot for slot in self._slots if slot not in kept])
        await asyncio.gather(*(asyncio.shield(slot.first_start) for slot in new))

    async def wait_workers(self) -> None:
        """Wait until every worker has become ready.

        Raises:
            LoadFailed, OutOfResources, WorkerTimeout, WorkerDied: One did not.
        """
        await asyncio.gather(*(asyncio.shield(slot.first_start) for slot in self._slots))

    def start_scaling(self, low: int, high: int) -> list[WorkerSlot]:
        """Set the counts and start missing workers; returns their slots without waiting."""
        self.settings = self.settings.with_workers(low, high)
        self._slots = [slot for slot in self._slots if slot.state is not WorkerState.FAILED]
        self._restarts.clear()
        missing = max(0, low - len(self._kept(low)))
        return [self._open_slot() for _ in range(missing)]

    async def drain(self, *, timeout_s: float) -> int:
        """Let what is queued and running finish; returns how many requests were given up."""
        self._draining = True
        try:
            await asyncio.wait_for(self._batcher.wait_drained(), timeout_s)
        except asyncio.TimeoutError:
            left = self.num_unanswered
            self._batcher.fail_waiting(self._removed_text())
            return left
        return 0

    async def close(self) -> None:
        """Stop all workers; what still waits is answered with NoWorker."""
        self._draining = True
        self._batcher.close(self._removed_text())
        await self._retire(list(self._slots), wait_for_batch=False)
        if self._scratch.exists():
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        self._closed = True

    def _queue(self, settings: ModelSettings) -> RequestQueue:
        max_batch_size = 1 if self._mode is not BatchMode.IN_TURN else settings.batch_size
        if not settings.sequence_batching:
            in_turn = self._mode is BatchMode.IN_TURN
            delay_s = settings.max_batch_delay_ms / 1000
            make: Callable[..., RequestQueue] = BatchQueue
            if settings.priority_header:
                make = partial(PriorityQueue, header=settings.priority_header.lower())
            return make(
                max_size=settings.job_queue_size,
                max_batch_size=max_batch_size,
                hold_s=delay_s if in_turn and self._host.fixed_batch_window else 0.0,
                max_delay_s=delay_s,
                timeout_s=settings.client_timeout_ms / 1000 if in_turn else 0.0,
            )
        limits = SequenceLimits(
            max_sequences=settings.max_num_sequence,
            max_waiting=settings.max_sequence_job_queue_size,
            max_idle_s=settings.sequence_max_idle_ms / 1000,
            max_age_s=settings.sequence_timeout_ms / 1000,
            end_header=self._host.sequence_headers[2].lower(),
        )
        return SequenceQueue(limits, max_batch_size=max_batch_size, num_seats=settings.batch_size)

    def _kept(self, high: int) -> list[WorkerSlot]:
        """The workers that stay when there may be `high`: those furthest along, oldest first."""
        staying = [slot for slot in self._slots if slot.state is not WorkerState.STOPPING]
        staying.sort(key=lambda slot: slot.state is not WorkerState.READY)
        return staying[:high]

    def _open_slot(self) -> WorkerSlot:
        settings = self.settings
        load = self._load_message(device=self._device())
        spec = WorkerSpec(
            worker_id=str(next(self._host.worker_ids)),
            load=load,
            environment=self._host.environment,
            command=(self.package.python or Path(sys.executable), self._host.worker_module),
            start_process=self._host.start_process,
            shared=self._share(load),
            startup_timeout_s=settings.startup_timeout_s,
            response_timeout_s=settings.response_timeout_s,
            max_retry_timeout_s=settings.max_retry_timeout_s,
            max_memory_bytes=settings.max_memory_bytes,
        )
        slot = WorkerSlot(spec, self._batcher, self, self._restarts)
        self._slots.append(slot)
        self._batcher.reconsider()
        return slot

    def _share(self, load: LoadModel) -> SharedModel | None:
        """What all workers of this version on the CPU are to share."""
        settings = self.settings
        if load.device != "cpu" or settings.share_weights is False:
            return None
        if self._shared is None:
            self._shared = SharedModel(
                load=load,
                only_builtin=settings.share_weights is None,
                timeout_s=settings.startup_timeout_s,
            )
        return self._shared

    def _device(self) -> str:
        if self.settings.device_type == "cpu":
            return "cpu"
        ids = self.settings.device_ids
        if ids and self._host.devices.num_gpus > max(ids):
            return f"cuda:{ids[len(self._slots) % len(ids)]}"
        return self._host.devices.take()

    async def _retire(self, slots: Sequence[WorkerSlot], *, wait_for_batch: bool = True) -> None:
        """End these workers, each after the batch it has, and forget them."""
        await asyncio.gather(*(slot.stop(wait_for_batch=wait_for_batch) for slot in slots))
        self._slots = [slot for slot in self._slots if slot not in slots]
        self._batcher.reconsider()
        for slot in slots:
            self.metrics.worker_removed(worker_id=slot.spec.worker_id)
        if not self._slots and self._shared is not None:
            self._host.forget(self._shared)
            self._shared = None

    # what the slots tell

    def stage_entered(self, stage: LoadStage) -> None:
        self.on_stage(stage)

    def worker_loaded(self, worker_id: str, loaded: Loaded) -> None:
        self.metrics.worker_loaded(worker_id=worker_id, load_s=loaded.load_s)
        self.metrics.samples(loaded.metrics)

    def worker_lost(self) -> None:
        self.metrics.worker_restarted()

    def worker_failed(self) -> None:
        if self.state is VersionState.FAILED:
            self._batcher.fail_waiting(self._no_worker_text())
        self._batcher.reconsider()

    def output_dropped(self, num_lines: int) -> None:
        self.metrics.output_dropped(num_lines)

    def _load_message(self, *, device: str) -> LoadModel:
        num_workers = max(1, self.settings.max_workers)
        return LoadModel(
            model_name=self.model,
            model_version=self.version,
            model_dir=str(self.package.model_dir),
            handler=self.package.handler,
            device=device,
            max_batch_size=self.settings.batch_size,
            num_threads=self.settings.threads_per_worker
            or max(1, (os.cpu_count() or 1) // num_workers),
            max_response_bytes=self._host.max_response_bytes,
            server_version=flambeau.__version__,
            service_envelope=self._host.service_envelope,
            decode_inputs=self._host.decode_inputs,
            limit_max_image_pixels=self._host.limit_max_image_pixels,
            model_metrics=list(self._host.model_metrics),
            metrics_auto_detect=self._host.metrics_auto_detect,
            batch_mode=self._mode,
            retry=self.settings.may_rerun,
            sequence_headers=self._host.sequence_headers,
            optimize=OptimizeWish(
                level=self.settings.optimize,
                within_s=min(_OPTIMIZING_S, 0.1 * self.settings.startup_timeout_s),
                choose_threads=self.settings.threads_per_worker == 0,
                archive_digest=self.package.digest,
            ),
            isolation=self._isolation(),
        )

    def _isolation(self) -> Isolation:
        settings = self.settings
        scratch_dir = ""
        if settings.isolation is IsolationLevel.STRICT:
            self._scratch.mkdir(mode=0o700, exist_ok=True)
            scratch_dir = str(self._scratch)
        return msgspec.structs.replace(
            self._host.limits,
            level=settings.isolation,
            scratch_dir=scratch_dir,
            read_paths=list(settings.read_paths),
            write_paths=list(settings.write_paths),
            allow_network=settings.allow_network,
        )

    def _removed_text(self) -> str:
        return f'Model "{self.model}" is being removed; try again.'

    def _no_worker_text(self) -> str:
        """TorchServe's sentence, which clients match, then the cause when there is one."""
        cause = f" Last worker: {self.reason}" if self.reason else ""
        return (
            f'Model "{self.model}" has no worker to serve inference request. Please use scale '
            "workers API to add workers. If this is a sequence inference, please check if it is "
            f"closed, or expired; or exceeds maxSequenceJobQueueSize{cause}"
        )
