"""What a child process prints, line by line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from flambeau.child import Child

Stream: TypeAlias = Literal["stdout", "stderr"]
OnOutput: TypeAlias = Callable[[Stream, str], None]

_MAX_LINE_BYTES: Final = 8192  # longer output lines are logged in pieces
_LAST_OUTPUT_S: Final = 1.0  # for reading what a process printed last, once it has ended


class Output:
    """Hands over lines as they come; never lets the process block on a full pipe."""

    def __init__(self, child: Child, on_output: OnOutput) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self._drains = [
            asyncio.ensure_future(_drain(child.stdout, "stdout", on_output)),
            asyncio.ensure_future(_drain(child.stderr, "stderr", on_output)),
        ]

    async def finish(self) -> None:
        """Read what is left once the process has ended.

        A process that the handler started in a session of its own may hold the pipes open.
        """
        _, endless = await asyncio.wait(self._drains, timeout=_LAST_OUTPUT_S)
        for drain in endless:
            drain.cancel()


async def _drain(reader: asyncio.StreamReader, stream: Stream, on_output: OnOutput) -> None:
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
