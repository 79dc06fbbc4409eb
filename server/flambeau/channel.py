"""The front's end of the socket it shares with one worker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from flambeau import wire
from flambeau.messages import RunBatch, ToFront, ToWorker


class WorkerChannel(asyncio.BufferedProtocol):
    """Frames in and out.

    Messages are received one by one until `listen` hands them to somebody as they come.
    """

    def __init__(self, *, max_frame_bytes: int) -> None:
        self._reader = wire.FrameReader(max_frame_bytes=max_frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._inbox: deque[ToFront] = deque()
        self._receiver: asyncio.Future[ToFront] | None = None
        self._listener: Callable[[ToFront], None] | None = None
        self._on_closed: Callable[[], None] = lambda: None
        self.is_open = True

    def listen(self, on_message: Callable[[ToFront], None], on_closed: Callable[[], None]) -> None:
        """Call these from now on, first with what has come already."""
        self._listener, self._on_closed = on_message, on_closed
        while self._inbox:
            on_message(self._inbox.popleft())
        if not self.is_open:
            on_closed()

    def send(self, message: ToWorker) -> None:
        """Queue a message for sending; nothing happens once the channel is closed."""
        if self._transport is not None and self.is_open:
            self._transport.write(wire.encode(message))

    def send_large(self, batch: RunBatch) -> None:
        """The same without copying the bodies that are large."""
        if self._transport is not None and self.is_open:
            self._transport.writelines(wire.encode_apart(batch))

    def receive(self) -> asyncio.Future[ToFront]:
        """The next message; EOFError when the worker has closed its end or sent garbage."""
        receiver: asyncio.Future[ToFront] = asyncio.get_running_loop().create_future()
        if self._inbox:
            receiver.set_result(self._inbox.popleft())
        elif self.is_open:
            self._receiver = receiver
        else:
            receiver.set_exception(EOFError())
        return receiver

    def close(self) -> None:
        was_open, self.is_open = self.is_open, False
        if self._transport is not None:
            self._transport.abort()
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_exception(EOFError())
        if was_open:
            self._on_closed()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=0)  # write at once: a worker waits for it

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # the reader knows better
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for payload in self._reader.received(nbytes):
                self._deliver(wire.decode_to_front(payload))
        except wire.WireError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the end is the end
        self.close()

    def _deliver(self, message: ToFront) -> None:
        if self._listener is not None:
            self._listener(message)
        elif self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(message)
        else:
            self._inbox.append(message)
