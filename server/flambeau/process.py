"""One worker process, seen from the front: start it, load it, run batches, end it.

The process is `python -m flambeau.worker` in a process group of its own, joined by one socketpair.
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
from typing import Literal, TypeAlias

from flambeau.channel import WorkerChannel
from flambeau.errors import LoadFailed, OutOfResources, WorkerDied, WorkerError, WorkerTimeout
from flambeau.messages import (
    BatchDone,
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

Stream: TypeAlias = Literal["stdout", "stderr"]
OnOutput: TypeAlias = Callable[[Stream, str], None]

_DIED = "Worker died."  # TorchServe's text
_MAX_LINE_BYTES = 8192  # longer output lines are logged in pieces
_LAST_OUTPUT_S = 1.0  # for reading what a worker printed last, once it has ended
_NUM_LAST_LINES = 5  # of its output, quoted when a worker dies while loading
_FRAME_OVERHEAD_BYTES = 1 << 20  # headers and message framing beside the answers of one batch


class WorkerProcess:
    """A running worker; make one with `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: WorkerChannel,
        load: LoadModel,
        *,
        response_timeout_s: float,
        on_output: OnOutput,
    ) -> None:
        # for the life of the process
        self._process = process
        self._channel = channel
        self._load = load
        self._response_timeout_s = response_timeout_s
        self._last_lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)

        def on_line(stream: Stream, line: str) -> None:
            self._last_lines.append(line)
            on_output(stream, line)

        assert process.stdout is not None
        assert process.stderr is not None
        self._drains = [
            asyncio.ensure_future(_drain_output(process.stdout, "stdout", on_line)),
            asyncio.ensure_future(_drain_output(process.stderr, "stderr", on_line)),
        ]
        self._exited = asyncio.ensure_future(self._watch_exit())
        # calls under way by batch id, and those that nobody waits for any more
        self._batch_id = 0
        self._calls: dict[int, _Call] = {}
        self._cancelled: set[int] = set()

    @classmethod
    async def start(
        cls,
        load: LoadModel,
        *,
        environment: Mapping[str, str],
        command: tuple[Path, str] = (Path(sys.executable), "flambeau.worker"),
        response_timeout_s: float,
        on_output: OnOutput,
    ) -> WorkerProcess:
        """Start the process and send it `load`; `wait_ready` tells how it went.

        Args:
            load: What to load, and the limits of every batch to come.
            environment: The worker's whole environment.
            command: The interpreter, and the module it runs.
            response_timeout_s: Longest time one batch may take.
            on_output: Called with each line the process prints.

        Raises:
            WorkerDied: The operating system cannot start a process now.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(command[0]), "-m", command[1], "--fd", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                # the archive's files, or the front's folder, must not shadow modules of ours
                env={**environment, "PYTHONSAFEPATH": "1"},
            )
        except OSError as error:
            ours.close()
            raise WorkerDied(f"a worker process cannot be started: {error}") from error
        finally:
            theirs.close()  # else our side never sees the end of file when the worker dies
        max_frame_bytes = load.max_batch_size * load.max_response_bytes + _FRAME_OVERHEAD_BYTES
        channel = WorkerChannel(max_frame_bytes=max_frame_bytes)
        ours.setblocking(False)  # noqa: FBT003  # socket's own signature
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: channel, sock=ours)
        channel.send(load)
        return cls(
            process, channel, load, response_timeout_s=response_timeout_s, on_output=on_output
        )

    @property
    def pid(self) -> int:
        return self._process.pid

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

    async def run(
        self,
        requests: Sequence[InferenceRequest],
        *,
        on_chunk: Callable[[Chunk], None] = lambda _: None,
    ) -> BatchDone:
        """Answer one batch, one result per request and in their order.

        Cancelling it tells the worker that nobody waits; only for batch modes that know that.

        Args:
            requests: At most `LoadModel.max_batch_size`.
            on_chunk: Called with parts of answers as they come; each begins the deadline anew.

        Raises:
            WorkerDied: It ended, or broke the protocol, before it answered.
            WorkerTimeout: No answer within `response_timeout_s`; it is killed.
        """
        self._batch_id += 1
        call = _Call(self._batch_id, len(requests), on_chunk, timeout_s=self._response_timeout_s)
        self._calls[call.batch_id] = call
        self._channel.send(RunBatch(batch_id=call.batch_id, requests=list(requests)))
        if not self._channel.is_open:
            call.fail(WorkerDied(_DIED))
        try:
            return await call.result
        except WorkerError:
            await self.kill()
            raise
        except asyncio.CancelledError:
            self._cancelled.add(call.batch_id)
            self._channel.send(CancelBatch(batch_id=call.batch_id))
            raise
        finally:
            call.stop_clock()
            del self._calls[call.batch_id]

    def _received(self, message: ToFront) -> None:
        """Hand a message to the call it belongs to; a worker that says anything else is ended."""
        match message:
            case Chunk(batch_id=batch_id) | BatchDone(batch_id=batch_id):
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
        for call in self._calls.values():
            call.fail(WorkerDied(_DIED))

    async def wait_exited(self) -> str:
        """Wait for the end of the process; returns how it ended, for people."""
        return describe_exit(await asyncio.shield(self._exited))

    async def stop(self, *, grace_s: float) -> None:
        """End an idle worker: close its socket, and kill its group if it lingers."""
        self._channel.close()
        await asyncio.wait({self._exited}, timeout=grace_s)
        await self.kill()

    async def kill(self) -> None:
        """End the whole process group at once and reap it."""
        self._channel.close()
        _kill_group(self._process.pid)
        await asyncio.shield(self._exited)

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
        # a process that the handler started in a session of its own may hold the pipes open
        _, endless = await asyncio.wait(self._drains, timeout=_LAST_OUTPUT_S)
        for drain in endless:
            drain.cancel()
        return code


class _Call:
    """A batch under way, and its deadline."""

    def __init__(
        self,
        batch_id: int,
        num_requests: int,
        on_chunk: Callable[[Chunk], None],
        *,
        timeout_s: float,
    ) -> None:
        self.batch_id = batch_id
        self._num_requests = num_requests
        self._on_chunk = on_chunk
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[BatchDone] = self._loop.create_future()
        self._clock = self._loop.call_later(timeout_s, self._expire)

    def received(self, message: Chunk | BatchDone) -> bool:
        """Take a message in; False when it does not fit the batch."""
        if self.result.done():
            return False
        if isinstance(message, BatchDone):
            if len(message.results) != self._num_requests:
                return False
            self.result.set_result(message)
            return True
        if not 0 <= message.place < self._num_requests:
            return False
        self._clock.cancel()
        self._clock = self._loop.call_later(self._timeout_s, self._expire)
        self._on_chunk(message)
        return True

    def fail(self, error: WorkerError) -> None:
        if not self.result.done():
            self.result.set_exception(error)

    def stop_clock(self) -> None:
        self._clock.cancel()

    def _expire(self) -> None:
        self.fail(
            WorkerTimeout(
                f"the worker gave no answer within response_timeout {self._timeout_s:g} s; it was "
                "restarted"
            )
        )


def describe_exit(code: int) -> str:
    """`exit code 3`, or `killed by SIGSEGV`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


async def _drain_output(reader: asyncio.StreamReader, stream: Stream, on_output: OnOutput) -> None:
    """Hand over lines as they come; never lets the worker block on a full pipe."""
    rest = b""
    while chunk := await reader.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        *long, rest = _pieces(rest)
        pieces = [piece for line in lines for piece in _pieces(line)]
        for piece in (*pieces, *long):
            on_output(stream, piece.decode(errors="replace").rstrip("\r"))
    if rest:
        on_output(stream, rest.decode(errors="replace"))


def _pieces(line: bytes) -> list[bytes]:
    """A line in pieces that a log record can hold; at least one, which may be empty."""
    starts = range(0, max(1, len(line)), _MAX_LINE_BYTES)
    return [line[start : start + _MAX_LINE_BYTES] for start in starts]


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # gone already; the id may be another user's by now
