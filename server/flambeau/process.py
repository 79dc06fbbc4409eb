"""One worker process, seen from the front: start it, load it, run batches, end it.

The process has a session of its own and is joined by one socketpair; `child.py` says where it comes
from.
Deadlines are kept here, from outside: a worker that misses one is killed with its whole group.
Retrying and replacing are `ModelVersion`'s business.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flambeau import wire
from flambeau.arena import Arena
from flambeau.channel import WorkerChannel
from flambeau.child import (
    Child,
    Launch,
    SharedModel,
    StartWorker,
    describe_exit,
    start_fresh,
)
from flambeau.errors import LoadFailed, OutOfResources, WorkerDied, WorkerError, WorkerTimeout
from flambeau.messages import (
    BatchDone,
    BatchMode,
    CancelBatch,
    Chunk,
    FailureKind,
    InferenceRequest,
    Loaded,
    LoadModel,
    LoadProgress,
    LoadStage,
    RunBatch,
    ToFront,
)
from flambeau.messages import LoadFailed as LoadFailedMessage
from flambeau.output import OnDropped, OnOutput, Output, Stream

_DIED = "Worker died."  # TorchServe's text
_MAX_HANDLER_S = 1e9
_NUM_LAST_LINES = 5  # of its output, quoted when a worker dies while loading
_FRAME_OVERHEAD_BYTES = 1 << 20  # headers and message framing beside the answers of one batch
_IDLE_S = 2.0  # without large bodies, after which their memory goes back; as for a worker's own


class WorkerProcess:
    """A running worker; make one with `start`."""

    def __init__(
        self,
        process: Child,
        channel: WorkerChannel,
        load: LoadModel,
        *,
        arena: Arena | None,
        response_timeout_s: float,
        on_output: OnOutput,
        on_dropped: OnDropped,
    ) -> None:
        # for the life of the process
        self._process = process
        self._channel = channel
        self._arena = arena
        self._loop = asyncio.get_running_loop()
        self._load = load
        self._in_turn = load.batch_mode is BatchMode.IN_TURN
        self._response_timeout_s = response_timeout_s
        self._last_lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)

        def on_line(stream: Stream, line: str) -> None:
            self._last_lines.append(line)
            on_output(stream, line)

        self._output = Output(process, on_line, on_dropped=on_dropped)
        self._exited = asyncio.ensure_future(self._watch_exit())
        # calls under way by batch id, and those that nobody waits for any more
        self._batch_id = 0
        self._calls: dict[int, _Call] = {}
        self._cancelled: set[int] = set()
        # gives the arena's memory back; and when it was last used
        self._giving_back: asyncio.TimerHandle | None = None
        self._arena_used_at = 0.0
        # why it was ended from here, and whether it had a batch then; told when it has ended
        self._ended_for: WorkerError | None = None
        self._was_busy = False

    @classmethod
    async def start(
        cls,
        load: LoadModel,
        *,
        environment: Mapping[str, str],
        command: tuple[Path, str] = (Path(sys.executable), "flambeau.worker"),
        start_process: StartWorker = start_fresh,
        shared: SharedModel | None = None,
        response_timeout_s: float,
        on_output: OnOutput,
        on_dropped: OnDropped = lambda _, __: None,
    ) -> WorkerProcess:
        """Start the process and send it `load`; `wait_ready` tells how it went.

        Args:
            load: What to load, and the limits of every batch to come.
            environment: The worker's whole environment.
            command: The interpreter, and the module it runs.
            start_process: Where the process comes from.
            shared: The model to share with other workers, where that is possible.
            response_timeout_s: Longest time one batch may take.
            on_output: Called with each line the process prints.
            on_dropped: Called with how many lines and bytes of it were left out.

        Raises:
            WorkerDied: The operating system cannot start a process now.
        """
        launch = Launch(command=command, environment=environment, shared=shared)
        process, ours = await start_process(launch)
        max_frame_bytes = load.max_batch_size * load.max_response_bytes + _FRAME_OVERHEAD_BYTES
        channel = WorkerChannel(max_frame_bytes=max_frame_bytes)
        ours.setblocking(False)  # noqa: FBT003  # socket's own signature
        arena = _handed_over(ours)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: channel, sock=ours)
        except BaseException:
            if arena is not None:
                arena.close()
            raise
        channel.send(load)
        return cls(
            process,
            channel,
            load,
            arena=arena,
            response_timeout_s=response_timeout_s,
            on_output=on_output,
            on_dropped=on_dropped,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended_for(self) -> WorkerError | None:
        """Why it was ended by `end_for`; None if it was not."""
        return self._ended_for

    @property
    def was_busy(self) -> bool:
        """Whether it had a batch when it ended."""
        return self._was_busy

    @property
    def memory_bytes(self) -> int:
        """Resident memory; 0 where the system does not tell or the process is gone."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def wait_ready(
        self, *, timeout_s: float, on_progress: Callable[[LoadStage], None]
    ) -> Loaded:
        """Wait until the model is loaded, warm and checked.

        Raises:
            LoadFailed: The worker says why it cannot serve; it is gone when this is raised.
            OutOfResources: The same, for lack of memory.
            WorkerTimeout: Not ready in time; it is killed.
            WorkerDied: It ended without a word.
        """
        stage = LoadStage.STARTING
        deadline_at = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                message = await self._receive(
                    deadline_at, f"while {stage.value}, within startup_timeout {timeout_s:g} s"
                )
            except WorkerTimeout:
                await self.kill()
                raise
            except WorkerDied as error:
                how = await self.wait_exited()
                if self._ended_for is not None:
                    raise self._ended_for from error
                raise WorkerDied(
                    f"the worker ended while {stage.text}: {how}; its last "
                    f"output was: {' | '.join(self._last_lines) or 'none'}"
                ) from error
            match message:
                case LoadProgress(stage=stage):
                    on_progress(stage)
                case Loaded():
                    self._channel.listen(self._received, self._channel_closed)
                    return message
                case LoadFailedMessage():
                    await self.kill()
                    memory = message.kind is FailureKind.OUT_OF_RESOURCES
                    raise (OutOfResources if memory else LoadFailed)(
                        f"{message.stage.text} failed: {message.message}"
                    )
                case BatchDone() | Chunk():
                    await self.kill()
                    raise WorkerDied("the worker broke the protocol before it was ready")

    def run(
        self,
        requests: Sequence[InferenceRequest],
        *,
        on_chunk: Callable[[Chunk], None] = lambda _: None,
    ) -> asyncio.Future[BatchDone]:
        """Answer one batch, one result per request and in their order.

        A worker that answers batches in turn may be sent one while it has another.

        Cancelling it tells the worker that nobody waits; only for batch modes that know that.

        Args:
            requests: At most `LoadModel.max_batch_size`.
            on_chunk: Called with parts of answers as they come; each begins the deadline anew.

        Raises, when awaited:
            WorkerDied: It ended, or broke the protocol, before it answered.
            WorkerTimeout: No answer within `response_timeout_s` of its turn; it is killed.
        """
        self._batch_id += 1
        call = _Call(
            self._batch_id,
            len(requests),
            on_chunk,
            on_failed=self._end_for,
            timeout_s=self._response_timeout_s,
        )
        call.result.add_done_callback(lambda _: self._call_over(call))
        if not (self._in_turn and self._calls):
            call.start_clock()
        self._calls[call.batch_id] = call
        self._send(RunBatch(batch_id=call.batch_id, requests=list(requests)))
        if not self._channel.is_open:
            call.fail(WorkerDied(_DIED))
        return call.result

    def _send(self, batch: RunBatch) -> None:
        """Send a batch, large bodies in the arena if they fit into it."""
        large = wire.large_bodies(batch)
        if not large:
            self._channel.send(batch)
        elif self._arena is not None and (stored := self._arena.stored(batch, large)) is not None:
            self._arena_used_at = self._loop.time()
            if self._giving_back is None:
                self._giving_back = self._loop.call_later(_IDLE_S, self._give_back)
            self._channel.send(stored)
        else:
            self._channel.send_large(batch)

    def _give_back(self) -> None:
        """Return the arena's memory once it has not been used for a while."""
        assert self._arena is not None
        idle_s = self._loop.time() - self._arena_used_at
        if self._arena.is_empty and idle_s >= _IDLE_S:
            self._giving_back = None
            self._arena.give_back()
        else:
            delay_s = max(_IDLE_S - idle_s, _IDLE_S / 2)
            self._giving_back = self._loop.call_later(delay_s, self._give_back)

    def _end_for(self, call: _Call) -> None:
        """End the worker that a call has failed for; the call is over when the worker is."""
        self._end()
        self._exited.add_done_callback(lambda _: call.give_up())

    def _call_over(self, call: _Call) -> None:
        """Forget a call; it is the turn of the next one."""
        call.stop_clock()
        del self._calls[call.batch_id]
        if self._in_turn and self._calls:
            next(iter(self._calls.values())).start_clock()
        if call.result.cancelled() and not call.is_done:
            self._cancelled.add(call.batch_id)
            self._channel.send(CancelBatch(batch_id=call.batch_id))

    def _received(self, message: ToFront) -> None:
        """Hand a message to the call it belongs to; a worker that says anything else is ended."""
        match message:
            case Chunk(batch_id=batch_id) | BatchDone(batch_id=batch_id):
                if self._arena is not None and isinstance(message, BatchDone):
                    self._arena.free(batch_id)
                call = self._calls.get(batch_id)
                if call is not None and call.received(message):
                    return
                if call is None and batch_id in self._cancelled:
                    if isinstance(message, BatchDone):
                        self._cancelled.remove(batch_id)
                    return
            case _:
                pass
        self._channel.close()

    def _channel_closed(self) -> None:
        self._was_busy = bool(self._calls)
        for call in self._calls.values():
            error = self._ended_for
            call.fail(WorkerDied(_DIED) if error is None else type(error)(str(error)))

    async def wait_exited(self) -> str:
        """Wait for the end of the process; returns how it ended, for people."""
        return describe_exit(await asyncio.shield(self._exited))

    async def stop(self, *, grace_s: float) -> None:
        """End an idle worker: close its socket, and kill its group if it lingers."""
        self._channel.close()
        await asyncio.wait({self._exited}, timeout=grace_s)
        await self.kill()

    async def has_exited(self, *, within_s: float) -> bool:
        """Whether it ends in so many seconds."""
        await asyncio.wait({self._exited}, timeout=within_s)
        return self._exited.done()

    async def end_for(self, error: WorkerError, *, grace_s: float) -> None:
        """End it for a reason that whoever waits for its answers is told."""
        if self._exited.done():
            return
        self._ended_for = error
        _signal_group(self._process.pid, signal.SIGTERM)
        await asyncio.wait({self._exited}, timeout=grace_s)
        await self.kill()

    async def kill(self) -> None:
        """End the whole process group at once and reap it."""
        self._end()
        await asyncio.shield(self._exited)

    def _end(self) -> None:
        self._channel.close()
        _kill_group(self._process.pid)

    async def _receive(self, deadline_at: float, limit: str) -> ToFront:
        timeout_s = deadline_at - asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(self._channel.receive(), timeout_s)
        except asyncio.TimeoutError:
            raise WorkerTimeout(f"the worker gave no answer {limit}; it was restarted") from None
        except EOFError:
            raise WorkerDied(_DIED) from None

    async def _watch_exit(self) -> int:
        code = await self._process.wait()
        _kill_group(self._process.pid)  # what the handler may have started beside itself
        self._channel.close()
        if self._giving_back is not None:
            self._giving_back.cancel()
        if self._arena is not None:
            self._arena.close()
        await self._output.finish()
        return code


class _Call:
    """A batch under way, and its deadline."""

    def __init__(
        self,
        batch_id: int,
        num_requests: int,
        on_chunk: Callable[[Chunk], None],
        *,
        on_failed: Callable[[_Call], None],
        timeout_s: float,
    ) -> None:
        self.batch_id = batch_id
        self._num_requests = num_requests
        self._on_chunk = on_chunk
        self._on_failed = on_failed
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[BatchDone] = self._loop.create_future()
        # from the beginning of its turn, and anew with each part of an answer
        self._clock: asyncio.TimerHandle | None = None
        # whether the worker has said its last word about it, or why it will not
        self.is_done = False
        self._error: WorkerError | None = None

    def received(self, message: Chunk | BatchDone) -> bool:
        """Take a message in; False when it does not fit the batch."""
        if self.is_done or self._error is not None:
            return False
        if isinstance(message, BatchDone):
            if len(message.results) != self._num_requests:
                return False
            if not 0.0 <= message.handler_s < _MAX_HANDLER_S:  # nor is it a number, perhaps
                return False
            self.is_done = True
            if not self.result.done():
                self.result.set_result(message)
            return True
        if not 0 <= message.place < self._num_requests:
            return False
        self.start_clock()
        self._on_chunk(message)
        return True

    def fail(self, error: WorkerError) -> None:
        """The worker is lost; whoever waits hears it once it has been reaped."""
        if not self.is_done and self._error is None:
            self._error = error
            self._on_failed(self)

    def give_up(self) -> None:
        assert self._error is not None
        if not self.result.done():
            self.result.set_exception(self._error)

    def start_clock(self) -> None:
        self.stop_clock()
        self._clock = self._loop.call_later(self._timeout_s, self._expire)

    def stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()

    def _expire(self) -> None:
        self.fail(
            WorkerTimeout(
                f"the worker gave no answer within response_timeout {self._timeout_s:g} s; it was "
                "restarted"
            )
        )


def _handed_over(sock: socket.socket) -> Arena | None:
    """An arena that the worker has been sent; None without."""
    arena = Arena.create()
    if arena is None:
        return None
    try:
        arena.hand_over(sock)
    except OSError:  # the worker has gone, which the channel will tell
        arena.close()
        return None
    return arena


def _kill_group(pid: int) -> None:
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # gone already; the id may be another user's by now
