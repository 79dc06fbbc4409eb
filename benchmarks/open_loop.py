"""Requests at a fixed rate, whether or not the last ones are answered.

A request's time counts from when it was due, not from when a connection was free for it, so that a
server that stalls is charged for all the requests that a stall delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httptools
import uvloop

from benchmarks.figures import percentile
from benchmarks.figures_growth import Latency

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
    from pathlib import Path

LAST_ANSWERS_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One request, in times of `time.monotonic`; `status` is 0 when the connection broke."""

    due_at: float
    sent_at: float
    answered_at: float
    status: int
    body: bytes


def measure(
    url: str, *, body: Path, rate: float, seconds: float, connections: int, num_idle: int = 0
) -> Latency:
    """Post a file at a fixed rate over so many connections, by turns; one request on each at most.

    Args:
        url: Where to; names the port.
        body: The request's body.
        rate: Requests per second.
        seconds: How long.
        connections: Over which requests are spread.
        num_idle: Open connections beside them, without any request.
    """
    request = post(url, body.read_bytes())

    async def run() -> list[Answered]:
        async with open_connections(url, num_idle):
            until = asyncio.sleep(seconds)
            return await at_rate(url, request, rate=rate, connections=connections, until=until)

    return summarise(uvloop.run(run()), rate=rate)


def summarise(answers: Sequence[Answered], *, rate: float) -> Latency:
    """Percentiles of the time from due to answered; failed requests count, too."""
    times_ms = [(answer.answered_at - answer.due_at) * 1000 for answer in answers]
    late_ms = [(answer.sent_at - answer.due_at) * 1000 for answer in answers]
    return Latency(
        rate=rate,
        num_requests=len(answers),
        num_errors=sum(answer.status != 200 for answer in answers),
        p50_ms=percentile(times_ms, 50),
        p99_ms=percentile(times_ms, 99),
        max_ms=max(times_ms),
        late_p99_ms=percentile(late_ms, 99),
    )


def post(url: str, body: bytes) -> bytes:
    """The bytes of a request."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def at_rate(
    url: str, request: bytes, *, rate: float, connections: int, until: Awaitable[object]
) -> list[Answered]:
    """Send the request at this rate until `until` is over, and wait for the last answers."""
    async with open_connections(url, connections) as opened:
        pool = _Pool(opened, request)
        await pool.greet()
        with _no_collections(), _pacing(pool, rate):
            await until
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(pool.wait_idle(), LAST_ANSWERS_S)
        pool.give_up()
    return pool.answers


@contextlib.asynccontextmanager
async def open_connections(url: str, count: int) -> AsyncGenerator[list[_Connection]]:
    """So many connections, closed in the end."""
    host, _, port = urlsplit(url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    opened: list[_Connection] = []
    try:
        for _ in range(count):
            _, connection = await loop.create_connection(_Connection, host, int(port))
            opened.append(connection)
        yield opened
    finally:
        for connection in opened:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection, which has at most one request under way."""

    def __init__(self) -> None:
        # for the life of the connection
        self._transport: asyncio.Transport | None = None
        self.on_answer: Callable[[_Connection, int, bytes], None] = _ignore
        # for the life of one answer
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the end is the end
        self._transport = None
        self.on_answer(self, 0, b"")

    # httptools' callbacks

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        status, self._parser = self._parser.get_status_code(), httptools.HttpResponseParser(self)
        self.on_answer(self, status, body)


def _ignore(connection: _Connection, status: int, body: bytes) -> None:
    """Nobody asked."""


class _Pool:
    """Requests that are due, and the connections that are free for them."""

    def __init__(self, connections: list[_Connection], request: bytes) -> None:
        self.answers: list[Answered] = []
        self._request = request
        self._free = deque(connections)  # in the order in which they became so
        self._due: deque[float] = deque()
        self._sent: dict[_Connection, tuple[float, float]] = {}
        self._idle = asyncio.Event()
        for connection in connections:
            connection.on_answer = self._answered

    def is_due(self, due_at: float) -> None:
        """Send a request that was due then, now or as soon as a connection is free."""
        self._due.append(due_at)
        self._send()

    async def greet(self) -> None:
        """Send one request over each connection that counts for nothing: all are accepted then.

        Raises:
            TimeoutError: They are not answered.
        """
        for _ in range(len(self._free)):
            self.is_due(time.monotonic())
        await asyncio.wait_for(self.wait_idle(), LAST_ANSWERS_S)
        self.answers.clear()

    async def wait_idle(self) -> None:
        """Wait until nothing is due and nothing under way."""
        while self._due or self._sent:
            self._idle.clear()
            await self._idle.wait()

    def give_up(self) -> None:
        """Count what has not been answered as failed."""
        now = time.monotonic()
        for due_at in self._due:
            self._note(due_at, now, 0, b"")
        for due_at, sent_at in self._sent.values():
            self._note(due_at, sent_at, 0, b"")
        self._due.clear()
        self._sent.clear()
        self._free.clear()

    def _send(self) -> None:
        while self._due and self._free:
            connection = self._free.popleft()
            if connection.is_open:
                self._sent[connection] = (self._due.popleft(), time.monotonic())
                connection.send(self._request)

    def _answered(self, connection: _Connection, status: int, body: bytes) -> None:
        if (sent := self._sent.pop(connection, None)) is not None:
            self._note(*sent, status, body)
            self._free.append(connection)
            self._send()
        if not self._sent:
            self._idle.set()

    def _note(self, due_at: float, sent_at: float, status: int, body: bytes) -> None:
        self.answers.append(
            Answered(
                due_at=due_at,
                sent_at=sent_at,
                answered_at=time.monotonic(),
                status=status,
                body=body,
            )
        )


@contextlib.contextmanager
def _pacing(pool: _Pool, rate: float) -> Generator[None]:
    """Tell the pool when a request is due.

    From a thread, as event loops wait for whole milliseconds.
    """
    loop = asyncio.get_running_loop()
    ended = threading.Event()

    def pace() -> None:
        due_at = time.monotonic()
        while not ended.wait(max(0.0, due_at - time.monotonic())):
            loop.call_soon_threadsafe(pool.is_due, due_at)
            due_at += 1 / rate

    pacer = threading.Thread(target=pace, daemon=True)
    pacer.start()
    try:
        yield
    finally:
        ended.set()
        pacer.join()


@contextlib.contextmanager
def _no_collections() -> Generator[None]:
    """Without the garbage collector, whose pauses would count as the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
