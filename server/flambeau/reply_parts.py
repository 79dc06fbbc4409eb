"""The parts of a streamed answer, on their way from a worker to one client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from flambeau.errors import FlambeauError, OutOfResources
from flambeau.messages import Reply

MAX_WAITING_BYTES = 64 << 20  # of a client that reads more slowly than its model writes


class ReplyParts:
    """An async iterator over the parts after the first; it ends with the answer.

    Raises, when iterated:
        FlambeauError: The answer cannot be completed; what came so far is all there is.
    """

    def __init__(self, *, on_closed: Callable[[], None]) -> None:
        """Begin without parts; `on_closed` is called when the reader leaves before the end."""
        self._on_closed = on_closed
        self._parts: deque[Reply] = deque()
        self._num_bytes = 0
        self._error: FlambeauError | None = None
        self._is_complete = False
        self._changed = asyncio.Event()

    def feed(self, part: Reply) -> None:
        """Append a part; ignored once the answer has ended."""
        if self._is_complete:
            return
        self._parts.append(part)
        self._num_bytes += len(part.body)
        if self._num_bytes > MAX_WAITING_BYTES:
            self.fail(
                OutOfResources(
                    f"the client has left {self._num_bytes} bytes of its answer unread; read faster"
                )
            )
            self._on_closed()
        self._changed.set()

    def finish(self, last: Reply) -> None:
        """Append the last part."""
        self.feed(last)
        self._is_complete = True
        self._changed.set()

    def fail(self, error: FlambeauError) -> None:
        """End the answer early; parts that came before are still read."""
        if not self._is_complete:
            self._is_complete, self._error = True, error
            self._changed.set()

    def close(self) -> None:
        """The reader leaves."""
        if not self._is_complete:
            self._is_complete = True
            self._changed.set()
            self._on_closed()

    def __aiter__(self) -> ReplyParts:
        return self

    async def __anext__(self) -> Reply:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        part = self._parts.popleft()
        self._num_bytes -= len(part.body)
        return part
