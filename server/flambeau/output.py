"""What a child process prints, line by line, and how much of it is worth a line of ours.

The pipes are always read, so that the process never waits for us. What comes faster than a reader
of logs could want is left out, at the cost of counting its lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from flambeau.child import Child

Stream: TypeAlias = Literal["stdout", "stderr"]
OnOutput: TypeAlias = Callable[[Stream, str], None]
# told how many lines and bytes were left out, once there is room again or no more comes
OnDropped: TypeAlias = Callable[[int, int], None]

_MAX_LINE_BYTES: Final = 8192  # longer output lines are logged in pieces
_CHUNK_BYTES: Final = 1 << 16
_LAST_OUTPUT_S: Final = 1.0  # for reading what a process printed last, once it has ended
_NUM_LAST_LINES: Final = 20  # handed over even after a flood: they tell what it died of


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLimits:
    """How much output is handed over.

    Attributes:
        lines_per_s: Lines in the long run.
        bytes_per_s: Bytes in the long run.
        burst_s: Seconds of both that may come at once.
    """

    lines_per_s: float = 1000.0
    bytes_per_s: float = float(1 << 20)
    burst_s: float = 10.0


class OutputBudget:
    """What one process may have handed over; times are seconds of any monotonic clock."""

    def __init__(self, limits: OutputLimits, *, now: float) -> None:
        # for the life of the process
        self._limits = limits
        self._max_lines = limits.lines_per_s * limits.burst_s
        self._max_bytes = limits.bytes_per_s * limits.burst_s
        # what is left
        self._lines = self._max_lines
        self._bytes = self._max_bytes
        self._filled_at = now

    def take(self, *, num_lines: int, num_bytes: int, now: float) -> bool:
        """Whether so much is handed over; then there is so much less left."""
        seconds = now - self._filled_at
        self._filled_at = now
        self._lines = min(self._max_lines, self._lines + seconds * self._limits.lines_per_s)
        self._bytes = min(self._max_bytes, self._bytes + seconds * self._limits.bytes_per_s)
        if num_lines > self._lines or num_bytes > self._bytes:
            return False
        self._lines -= num_lines
        self._bytes -= num_bytes
        return True


class Output:
    """Hands over lines as they come; never lets the process block on a full pipe."""

    def __init__(
        self,
        child: Child,
        on_output: OnOutput,
        *,
        on_dropped: OnDropped,
        limits: OutputLimits | None = None,
    ) -> None:
        """Begin to read.

        Args:
            child: Whose output.
            on_output: Called with each line.
            on_dropped: Called with how much was left out.
            limits: How much is handed over, of both streams together.
        """
        assert child.stdout is not None
        assert child.stderr is not None
        budget = OutputBudget(limits or OutputLimits(), now=asyncio.get_running_loop().time())
        stdout = Lines("stdout", budget, on_output, on_dropped)
        stderr = Lines("stderr", budget, on_output, on_dropped)
        self._drains = [
            asyncio.ensure_future(_drain(child.stdout, stdout)),
            asyncio.ensure_future(_drain(child.stderr, stderr)),
        ]

    async def finish(self) -> None:
        """Read what is left once the process has ended.

        A process that the handler started in a session of its own may hold the pipes open.
        """
        _, endless = await asyncio.wait(self._drains, timeout=_LAST_OUTPUT_S)
        for drain in endless:
            drain.cancel()


class Lines:
    """One stream, cut into lines."""

    def __init__(
        self, stream: Stream, budget: OutputBudget, on_output: OnOutput, on_dropped: OnDropped
    ) -> None:
        # for the life of the stream
        self._stream: Stream = stream
        self._budget = budget
        self._on_output = on_output
        self._on_dropped = on_dropped
        # the beginning of a line that has not ended
        self._rest = b""
        # since something was handed over
        self._num_dropped_lines = 0
        self._num_dropped_bytes = 0
        self._last_dropped = b""

    def add(self, chunk: bytes, *, now: float) -> None:
        """Take some bytes in, at most `_CHUNK_BYTES`."""
        num_lines = chunk.count(b"\n") + len(chunk) // _MAX_LINE_BYTES
        if not self._budget.take(num_lines=num_lines, num_bytes=len(chunk), now=now):
            self._num_dropped_lines += num_lines
            self._num_dropped_bytes += len(self._rest) + len(chunk)
            self._last_dropped, self._rest = chunk, b""
            return
        self._tell_dropped()
        *lines, rest = (self._rest + chunk).split(b"\n")
        *long, self._rest = _pieces(rest)
        for piece in (*(piece for line in lines for piece in _pieces(line)), *long):
            self._hand_over(piece)

    def end(self) -> None:
        """No more comes; the last lines are worth more than those before."""
        if self._last_dropped:
            *lines, self._rest = self._last_dropped.split(b"\n")[-_NUM_LAST_LINES:]
            self._tell_dropped()
            for line in lines:
                self._hand_over(line[-_MAX_LINE_BYTES:])
        if self._rest:
            self._hand_over(self._rest[-_MAX_LINE_BYTES:])

    def _hand_over(self, line: bytes) -> None:
        self._on_output(self._stream, line.decode(errors="replace").rstrip("\r"))

    def _tell_dropped(self) -> None:
        if self._num_dropped_bytes:
            self._on_dropped(self._num_dropped_lines, self._num_dropped_bytes)
            self._num_dropped_lines = self._num_dropped_bytes = 0
            self._last_dropped = b""


async def _drain(reader: asyncio.StreamReader, lines: Lines) -> None:
    loop = asyncio.get_running_loop()
    while chunk := await reader.read(_CHUNK_BYTES):
        lines.add(chunk, now=loop.time())
    lines.end()


def _pieces(line: bytes) -> list[bytes]:
    """A line in pieces that a log record can hold; at least one, which may be empty."""
    starts = range(0, max(1, len(line)), _MAX_LINE_BYTES)
    return [line[start : start + _MAX_LINE_BYTES] for start in starts]
