"""One worker's place in a version, and the task that keeps a process in it.

    starting -> ready -> stopping
        |         `-> restarting -> ready ...
        `-> failed

A worker that cannot be loaded the first time is not tried again: the cause lies in the archive, and
the caller hears it at once. One that was ready and ended is replaced; one that does so again and
again without answering anything is replaced with growing pauses, and soon given up.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from flambeau.batcher import Batcher
from flambeau.child import SharedModel, StartWorker
from flambeau.errors import LoadFailed, WorkerDied, WorkerError
from flambeau.memory_watch import watch_memory
from flambeau.messages import Loaded, LoadModel, LoadStage
from flambeau.output import Stream
from flambeau.process import WorkerProcess
from flambeau.restart_limit import MAX_RESTARTS, WINDOW_S, RestartLimit, pause_s

_log = logging.getLogger(__name__)
_worker_log = logging.getLogger("flambeau.worker")

_STABLE_S = 60.0  # a worker that lived this long is no part of a loop of crashes
_BY_OTHERS = ("killed by SIGKILL", "killed by SIGTERM")  # or by the system, for lack of memory
_STOP_GRACE_S = 5.0  # for a worker to run its exit handlers after its socket closes


class WorkerState(str, Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """How to start a worker, as often as it takes.

    Attributes:
        worker_id: What people call it; 9000 and up, as TorchServe's were.
        load: What it loads, and on which device.
        environment: Its whole environment.
        command: The interpreter, and the module it runs.
        start_process: Where its processes come from.
        shared: The model to share with other workers, where that is possible.
        startup_timeout_s: Seconds it may take to be ready.
        response_timeout_s: Seconds one batch may take.
        max_retry_timeout_s: Seconds of failing in a row after which it is given up.
        max_memory_bytes: Memory it may hold, with what it has started; 0 for no limit.
    """

    worker_id: str
    load: LoadModel
    environment: Mapping[str, str]
    command: tuple[Path, str]
    start_process: StartWorker
    shared: SharedModel | None
    startup_timeout_s: float
    response_timeout_s: float
    max_retry_timeout_s: float
    max_memory_bytes: int


class SlotObserver:
    """What a slot tells its version; every method may be left as it is."""

    def stage_entered(self, stage: LoadStage) -> None:
        """A starting worker has got so far."""

    def worker_loaded(self, worker_id: str, loaded: Loaded) -> None:
        """A worker is ready."""

    def worker_lost(self) -> None:
        """A worker that was ready has ended; another will be started."""

    def worker_failed(self) -> None:
        """The slot has been given up."""

    def output_dropped(self, num_lines: int) -> None:
        """A worker printed more than is logged."""


class WorkerSlot:
    """Owner of one worker process at a time.

    Attributes:
        spec: How its processes are started.
        started_at: Wall-clock time of the slot's beginning, for people.
        state: Where its worker is.
        stage: How far a starting worker has got.
        reason: What the last worker died or failed of; empty when all is well.
        check: What the self-check of the present worker found.
        optimization: In which form the present worker runs the model.
        isolation: What the present worker is kept from.
        process: The present worker once it is ready.
        first_start: Resolved when the first worker is ready; raises why when it is not.
    """

    def __init__(
        self, spec: WorkerSpec, batcher: Batcher, observer: SlotObserver, restarts: RestartLimit
    ) -> None:
        """Start the first worker; needs a running event loop.

        Args:
            spec: How its processes are started.
            batcher: Gives them their batches.
            observer: Told what happens to them.
            restarts: How often they are replaced, shared with the version's other slots.
        """
        loop = asyncio.get_running_loop()
        # for the life of the slot
        self.spec = spec
        self.started_at = time.time()
        self.first_start: asyncio.Future[Loaded] = loop.create_future()
        self.first_start.add_done_callback(_note_retrieved)
        self._batcher = batcher
        self._observer = observer
        self._restarts = restarts
        self._loop = loop
        # for the life of one process
        self.state = WorkerState.STARTING
        self.stage = LoadStage.STARTING
        self.reason = ""
        self.check = ""
        self.optimization = ""
        self.isolation = ""
        self.process: WorkerProcess | None = None
        self._watch: asyncio.Task[None] | None = None
        self._task = loop.create_task(self._keep_alive())

    async def stop(self, *, wait_for_batch: bool) -> None:
        """End the worker, after the batch it has or at once."""
        self.state = WorkerState.STOPPING
        if self.process is not None and wait_for_batch:
            await self._batcher.release(self.process)
        elif self.process is not None and self._batcher.is_busy(self.process):
            await self.process.kill()
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self.first_start.done():
            self.first_start.set_exception(LoadFailed("the worker was stopped before it was ready"))

    async def _keep_alive(self) -> None:
        """Start a worker, and again whenever it ends, until cancelled or given up."""
        failing_since: float | None = None
        num_failures = 0
        while True:
            process: WorkerProcess | None = None
            is_loop = True
            if self.first_start.done():
                gc.collect()  # the last process is a cycle, and `serving.py` collects rarely
            try:
                process = await self._start()
                ready_at = self._loop.time()
                how = await process.wait_exited()
                self.reason = str(process.ended_for or f"the worker ended by itself: {how}")
                is_loop = self._looks_like_loop(process, how, ready_at=ready_at)
            except WorkerError as error:
                self.reason = str(error)
                if not self.first_start.done():
                    self._give_up(error)
                    return
            finally:
                if process is not None:
                    await self._end(process)
            now = self._loop.time()
            if not is_loop:
                failing_since, num_failures = None, 0
                await self._pause(self._restarts.pause_s(now=now))
                continue
            failing_since = now if failing_since is None else failing_since
            wait_s = self._restarts.wait_s(now=now)
            is_looping = process is not None and wait_s > 0
            if is_looping:
                self.reason += (
                    f"; {MAX_RESTARTS} restarts within {WINDOW_S:g} s did not help: scale the "
                    "model to try again, or deploy another version"
                )
            if is_looping or now - failing_since > self.spec.max_retry_timeout_s:
                self._give_up(WorkerDied(self.reason))
                return
            num_failures += 1
            self._restarts.restarted(now=now)
            await self._pause(max(pause_s(num_failures), wait_s))

    def _looks_like_loop(self, process: WorkerProcess, how: str, *, ready_at: float) -> bool:
        """Whether a worker that was ready has ended as the next one will."""
        now = self._loop.time()
        looks_so = self._restarts.ended(
            now=now,
            num_answered=self._batcher.num_answered,
            by_itself=not process.was_busy and how not in _BY_OTHERS,
        )
        return looks_so and now - ready_at <= _STABLE_S

    async def _start(self) -> WorkerProcess:
        """A process that is ready and has been handed to the batcher."""
        process = await WorkerProcess.start(
            self.spec.load,
            environment=self.spec.environment,
            command=self.spec.command,
            start_process=self.spec.start_process,
            shared=self.spec.shared,
            response_timeout_s=self.spec.response_timeout_s,
            on_output=self._on_output,
            on_dropped=self._on_dropped,
        )
        if self.spec.max_memory_bytes:  # it ends with the process
            self._watch = self._loop.create_task(
                watch_memory(process, max_bytes=self.spec.max_memory_bytes)
            )
        try:
            loaded = await process.wait_ready(
                timeout_s=self.spec.startup_timeout_s, on_progress=self._enter
            )
        except BaseException:
            await process.kill()
            raise
        self.process = process
        self.state = WorkerState.READY
        self.reason = ""
        self.check = loaded.check
        self.optimization = loaded.optimization
        self.isolation = loaded.isolation
        self._enter(LoadStage.READY)
        self._observer.worker_loaded(self.spec.worker_id, loaded)
        self._batcher.add(process)
        if not self.first_start.done():
            self.first_start.set_result(loaded)
        _log.info(
            "worker ready",
            extra=self._tags
            | {
                "load_s": loaded.load_s,
                "warm_up_s": loaded.warm_up_s,
                "check": loaded.check,
                "optimization": loaded.optimization,
                "isolation": loaded.isolation,
            },
        )
        return process

    def _enter(self, stage: LoadStage) -> None:
        self.stage = stage
        self._observer.stage_entered(stage)

    async def _end(self, process: WorkerProcess) -> None:
        self.process = None
        if self.state is WorkerState.READY:
            self.state = WorkerState.RESTARTING
        await self._batcher.release(process)
        await process.stop(grace_s=_STOP_GRACE_S)

    async def _pause(self, seconds: float) -> None:
        self.stage = LoadStage.STARTING
        self._observer.worker_lost()
        _log.warning(
            "worker lost; starting another in %.1f s",
            seconds,
            extra=self._tags | {"reason": self.reason},
        )
        await asyncio.sleep(seconds)

    def _give_up(self, error: WorkerError) -> None:
        self.state = WorkerState.FAILED
        _log.error("worker failed", extra=self._tags | {"reason": self.reason})
        if not self.first_start.done():
            self.first_start.set_exception(error)
        self._observer.worker_failed()

    def _on_output(self, stream: Stream, line: str) -> None:
        _worker_log.info(line, extra=self._tags | {"stream": stream})

    def _on_dropped(self, num_lines: int, num_bytes: int) -> None:
        self._observer.output_dropped(num_lines)
        _worker_log.warning(
            "%d lines (%d bytes) were left out: the worker prints more than is logged",
            num_lines,
            num_bytes,
            extra=self._tags,
        )

    @property
    def _tags(self) -> dict[str, object]:
        load = self.spec.load
        return {
            "model": load.model_name,
            "version": load.model_version,
            "worker": self.spec.worker_id,
        }


def _note_retrieved(future: asyncio.Future[Loaded]) -> None:
    """A failure that nobody waited for is in the log and in describe; asyncio need not complain."""
    if not future.cancelled():
        future.exception()
