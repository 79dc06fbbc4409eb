"""A TCP proxy that is a bad network: slow, in pieces, or broken off.

async with FaultProxy(target=(host, port), fault=Fault(latency_s=0.2)) as proxy:
    ...  # connect to 127.0.0.1, proxy.port
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_READ_BYTES = 1 << 16
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong with each connection, in both directions.

    Attributes:
        latency_s: How much later everything arrives.
        bytes_per_s: How many bytes pass per second; None for all there are.
        cut_after_bytes: After how many bytes, of both directions, it ends; None for never.
        reset: Whether it ends with a reset, not an orderly close.
        half_close: Whether the server is told, after a whole request, that no more will come.
        fragment_bytes: Into pieces of how many bytes all is cut; None for as it comes.
    """

    latency_s: float = 0.0
    bytes_per_s: float | None = None
    cut_after_bytes: int | None = None
    reset: bool = False
    half_close: bool = False
    fragment_bytes: int | None = None


class FaultProxy:
    """Listens on a port of its own while entered.

    Attributes:
        port: Of 127.0.0.1.
        passed: What has been passed on to the target, one text for each connection.
    """

    def __init__(self, *, target: tuple[str, int], fault: Fault) -> None:
        self._target = target
        self._fault = fault
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.passed: list[bytearray] = []

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.passed.append(bytearray())
        connection = _Connection(self._fault, passed=self.passed[-1])
        task = asyncio.ensure_future(connection.run(self._target, reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)


class _Connection:
    """One client's connection and the one behind it."""

    def __init__(self, fault: Fault, *, passed: bytearray) -> None:
        self._fault = fault
        self._passed = passed
        self._num_bytes = 0
        self._is_cut = asyncio.Event()

    async def run(
        self, target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*target)
        ways = {
            asyncio.ensure_future(self._pump(reader, far_writer, is_request=True)),
            asyncio.ensure_future(self._pump(far_reader, writer, is_request=False)),
        }
        cut = asyncio.ensure_future(self._is_cut.wait())
        both = asyncio.ensure_future(asyncio.wait(ways))
        ends: set[asyncio.Future[Any]] = {both, cut}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ways, both, cut):
                task.cancel()
            for each in (writer, far_writer):
                self._end(each)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        if self._is_cut.is_set() and self._fault.reset:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        while data := await reader.read(self._fault.fragment_bytes or _READ_BYTES):
            await self._delay(len(data))
            self._num_bytes += len(data)
            limit = self._fault.cut_after_bytes
            if limit is not None and self._num_bytes > limit:
                self._is_cut.set()
                return
            writer.write(data)
            await writer.drain()
            if is_request:
                self._passed += data
                if self._fault.half_close and _is_whole(self._passed):
                    break
        if writer.can_write_eof():
            writer.write_eof()

    async def _delay(self, num_bytes: int) -> None:
        rate = self._fault.bytes_per_s
        seconds = self._fault.latency_s + (num_bytes / rate if rate else 0.0)
        if seconds:
            await asyncio.sleep(seconds)


def _is_whole(request: bytearray) -> bool:
    """Whether a request is there with its body."""
    head, separator, body = request.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(separator) and length is not None and len(body) >= int(length[1])
