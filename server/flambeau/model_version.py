"""One version of a model: its workers, its queue, and its way from starting to closed.

    starting -> ready -> draining -> closed
        `-> failed -> closed

Each worker has a slot with a task that starts it, hands it to the batcher, waits for its end and
replaces it with growing pauses. A worker that cannot be loaded the first time is not retried: the
cause lies in the archive, and the caller hears it at once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import flambeau
from flambeau.batch_queue import BatchQueue
from flambeau.batcher import Batcher, PendingRequest
from flambeau.devices import DeviceCycle
from flambeau.errors import LoadFailed, NoWorker, WorkerDied, WorkerError
from flambeau.manifest import Manifest
from flambeau.messages import InferenceRequest, Loaded, LoadModel, LoadStage
from flambeau.metrics import VersionGauges, VersionMetrics
from flambeau.model_settings import ModelSettings
from flambeau.process import Stream, WorkerProcess

_log = logging.getLogger(__name__)
_worker_log = logging.getLogger("flambeau.worker")

_MAX_PAUSE_S = 60.0
_STABLE_S = 60.0  # a worker that lived this long starts the count of failures anew
_STOP_GRACE_S = 5.0  # for a worker to run its exit handlers after its socket closes


class VersionState(str, Enum):
    """Where a version is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"


class WorkerState(str, Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
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
        at_startup: Whether it is served since the server started.
    """

    url: str
    digest: str
    model_dir: Path
    manifest: Manifest
    handler: str | None = None
    at_startup: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What all versions of one server share.

    Attributes:
        devices: Deals out a device for each worker.
        environment: The environment of every worker.
        max_response_bytes: Largest answer.
        fixed_batch_window: Hold batches back as TorchServe does.
        worker_ids: Numbers for workers, rising from 9000 as TorchServe's ports did.
    """

    devices: DeviceCycle
    environment: Mapping[str, str]
    max_response_bytes: int
    fixed_batch_window: bool = False
    worker_ids: Iterator[int] = field(default_factory=lambda: itertools.count(9000))


@dataclass(eq=False, slots=True)
class WorkerSlot:
    """One worker's place; the process in it changes when it is replaced."""

    worker_id: str
    device: str
    first_start: asyncio.Future[Loaded]
    started_at: float = field(default_factory=time.time)  # wall clock, for people
    state: WorkerState = WorkerState.STARTING
    stage: LoadStage = LoadStage.STARTING
    reason: str = ""
    check: str = ""
    process: WorkerProcess | None = None
    task: asyncio.Task[None] = field(init=False)


class ModelVersion:
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
        hold_s = settings.max_batch_delay_ms / 1000 if host.fixed_batch_window else 0.0
        self._batcher = Batcher(
            BatchQueue(
                max_size=settings.job_queue_size,
                max_batch_size=settings.batch_size,
                hold_s=hold_s,
            ),
            label=f'Model "{model}"',
            observer=metrics,
            loop=self._loop,
        )
        # changes with scaling
        self.settings = settings
        self._slots: list[WorkerSlot] = []
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
        return self._batcher.num_waiting

    @property
    def queue_room(self) -> int:
        return self._batcher.room

    @property
    def is_healthy(self) -> bool:
        """Whether as many workers as asked for are ready or on their way back."""
        lost = {WorkerState.FAILED, WorkerState.STOPPING}
        return sum(s.state not in lost for s in self._slots) >= self.settings.min_workers

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

    def submit(self, request: InferenceRequest) -> PendingRequest:
        """Queue one request for the next free worker.

        Raises:
            NoWorker: No worker is ready or on its way.
            QueueFull: Too many requests wait already.
        """
        self.metrics.request_accepted()
        coming = (WorkerState.READY, WorkerState.STARTING, WorkerState.RESTARTING)
        if not any(slot.state in coming for slot in self._slots):
            raise NoWorker(self._no_worker_text())
        return self._batcher.submit(request)

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
        missing = max(0, low - len(self._kept(low)))
        return [self._open_slot() for _ in range(missing)]

    async def drain(self, *, timeout_s: float) -> int:
        """Let what is queued and running finish; returns how many requests were given up."""
        self._draining = True
        try:
            await asyncio.wait_for(self._batcher.wait_drained(), timeout_s)
        except asyncio.TimeoutError:
            left = self._batcher.num_waiting
            self._batcher.fail_waiting(f'Model "{self.model}" is being removed; try again.')
            return left
        return 0

    async def close(self) -> None:
        """Stop all workers; what still waits is answered with NoWorker."""
        self._draining = True
        self._batcher.fail_waiting(f'Model "{self.model}" is being removed; try again.')
        await self._retire(list(self._slots), wait_for_batch=False)
        self._closed = True

    def _kept(self, high: int) -> list[WorkerSlot]:
        """The workers that stay when there may be `high`: those furthest along, oldest first."""
        staying = [slot for slot in self._slots if slot.state is not WorkerState.STOPPING]
        staying.sort(key=lambda slot: slot.state is not WorkerState.READY)
        return staying[:high]

    def _open_slot(self) -> WorkerSlot:
        slot = WorkerSlot(
            worker_id=str(next(self._host.worker_ids)),
            device=self._device(),
            first_start=self._loop.create_future(),
        )
        slot.first_start.add_done_callback(_note_retrieved)
        slot.task = self._loop.create_task(self._keep_alive(slot))
        self._slots.append(slot)
        return slot

    def _device(self) -> str:
        if self.settings.device_type == "cpu":
            return "cpu"
        ids = self.settings.device_ids
        if ids and self._host.devices.num_gpus > max(ids):
            return f"cuda:{ids[len(self._slots) % len(ids)]}"
        return self._host.devices.take()

    async def _retire(self, slots: Sequence[WorkerSlot], *, wait_for_batch: bool = True) -> None:
        """End these workers, each after the batch it has, and forget them."""
        for slot in slots:
            slot.state = WorkerState.STOPPING
        await asyncio.gather(
            *(self._retire_one(slot, wait_for_batch=wait_for_batch) for slot in slots)
        )
        self._slots = [slot for slot in self._slots if slot not in slots]

    async def _retire_one(self, slot: WorkerSlot, *, wait_for_batch: bool) -> None:
        if slot.process is not None and wait_for_batch:
            await self._batcher.release(slot.process)
        elif slot.process is not None and self._batcher.is_busy(slot.process):
            await slot.process.kill()
        slot.task.cancel()
        await asyncio.wait({slot.task})
        if not slot.first_start.done():
            slot.first_start.set_exception(LoadFailed("the worker was stopped before it was ready"))

    # one worker's life

    async def _keep_alive(self, slot: WorkerSlot) -> None:
        """Start the slot's worker, and again whenever it ends, until cancelled or given up."""
        failing_since: float | None = None
        num_failures = 0
        while True:
            process: WorkerProcess | None = None
            try:
                process = await self._start(slot)
                ready_at = self._loop.time()
                how = await process.wait_exited()
                slot.reason = f"the worker ended by itself: {how}"
                if self._loop.time() - ready_at > _STABLE_S:
                    failing_since, num_failures = None, 0
            except WorkerError as error:
                slot.reason = str(error)
                if not slot.first_start.done():
                    self._give_up(slot, error)
                    return
            finally:
                if process is not None:
                    await self._end(slot, process)
            now = self._loop.time()
            failing_since = now if failing_since is None else failing_since
            if now - failing_since > self.settings.max_retry_timeout_s:
                self._give_up(slot, WorkerDied(slot.reason))
                return
            num_failures += 1
            await self._pause(slot, pause_s(num_failures))

    async def _start(self, slot: WorkerSlot) -> WorkerProcess:
        """A process that is ready and has been handed to the batcher."""
        process = await WorkerProcess.start(
            self._load_message(slot),
            environment=self._host.environment,
            response_timeout_s=self.settings.response_timeout_s,
            on_output=self._output_logger(slot),
        )
        try:
            loaded = await process.wait_ready(
                timeout_s=self.settings.startup_timeout_s,
                on_progress=lambda stage: self._enter(slot, stage),
            )
        except BaseException:
            await process.kill()
            raise
        slot.process = process
        slot.state = WorkerState.READY
        slot.reason = ""
        slot.check = loaded.check
        self._enter(slot, LoadStage.READY)
        self._batcher.add(process)
        if not slot.first_start.done():
            slot.first_start.set_result(loaded)
        _log.info(
            "worker ready",
            extra=self._tags(slot) | {"load_s": loaded.load_s, "check": loaded.check},
        )
        return process

    def _enter(self, slot: WorkerSlot, stage: LoadStage) -> None:
        slot.stage = stage
        self.on_stage(stage)

    async def _end(self, slot: WorkerSlot, process: WorkerProcess) -> None:
        slot.process = None
        if slot.state is WorkerState.READY:
            slot.state = WorkerState.RESTARTING
        await self._batcher.release(process)
        await process.stop(grace_s=_STOP_GRACE_S)

    async def _pause(self, slot: WorkerSlot, seconds: float) -> None:
        slot.stage = LoadStage.STARTING
        self.metrics.worker_restarted()
        _log.warning(
            "worker lost; starting another in %.1f s",
            seconds,
            extra=self._tags(slot) | {"reason": slot.reason},
        )
        await asyncio.sleep(seconds)

    def _give_up(self, slot: WorkerSlot, error: WorkerError) -> None:
        slot.state = WorkerState.FAILED
        _log.error("worker failed", extra=self._tags(slot) | {"reason": slot.reason})
        if not slot.first_start.done():
            slot.first_start.set_exception(error)
        if self.state is VersionState.FAILED:
            self._batcher.fail_waiting(self._no_worker_text())

    def _load_message(self, slot: WorkerSlot) -> LoadModel:
        num_workers = max(1, self.settings.max_workers)
        return LoadModel(
            model_name=self.model,
            model_version=self.version,
            model_dir=str(self.package.model_dir),
            handler=self.package.handler,
            device=slot.device,
            max_batch_size=self.settings.batch_size,
            num_threads=max(1, (os.cpu_count() or 1) // num_workers),
            max_response_bytes=self._host.max_response_bytes,
            server_version=flambeau.__version__,
        )

    def _output_logger(self, slot: WorkerSlot) -> Callable[[Stream, str], None]:
        tags = self._tags(slot)

        def on_output(stream: Stream, line: str) -> None:
            _worker_log.info(line, extra=tags | {"stream": stream})

        return on_output

    def _tags(self, slot: WorkerSlot) -> dict[str, object]:
        return {"model": self.model, "version": self.version, "worker": slot.worker_id}

    def _no_worker_text(self) -> str:
        """TorchServe's sentence, which clients match, then the cause when there is one."""
        cause = f" Last worker: {self.reason}" if self.reason else ""
        return (
            f'Model "{self.model}" has no worker to serve inference request. Please use scale '
            "workers API to add workers. If this is a sequence inference, please check if it is "
            f"closed, or expired; or exceeds maxSequenceJobQueueSize{cause}"
        )


def pause_s(num_failures: int) -> float:
    """Seconds before the next start: 0.1, 0.2, 0.4 ... up to a minute."""
    return float(min(_MAX_PAUSE_S, 0.1 * 2 ** min(num_failures - 1, 16)))


def _note_retrieved(future: asyncio.Future[Loaded]) -> None:
    """A failure that nobody waited for is in the log and in describe; asyncio need not complain."""
    if not future.cancelled():
        future.exception()
