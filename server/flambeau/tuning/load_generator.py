"""A client process: requests at a rate or over so many connections, and how long each one took.

Run as `python -m flambeau.tuning.load_generator`, once per client, by `clients.py`. It reads one
`Load` per line of stdin and writes one `Seen` per line of stdout.

At a rate, requests are due at random moments whatever became of those before them, as those of many
independent users are, and a latency counts from the moment its request was due. So a server that
stalls is charged for all requests that had to wait meanwhile, whether or not a connection was free
to send them. One thread and no event loop: what drives the load is to cost little beside what it
measures, and event loops round their timers to milliseconds.
"""

from __future__ import annotations

import argparse
import random
import select
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Final

import httptools
import msgspec

_READ_BYTES: Final = 1 << 18
_SHOWN_BYTES: Final = 300
_CONNECT_S: Final = 5.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send.

    Attributes:
        rate: Requests per second, on average; 0 keeps every connection busy instead.
        connections: At most.
        warm_up_s: Seconds of load before those that are measured.
        seconds: How long to measure.
        grace_s: Seconds to wait for the last answers.
        limits: Pairs of a latency in seconds, and how many requests may be slower before the
            measurement ends early.
        seed: For the moments at which requests are due.
    """

    rate: float
    connections: int
    warm_up_s: float
    seconds: float
    grace_s: float
    limits: list[tuple[float, int]] = []
    seed: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; the fields are `Window`'s."""

    seconds: float
    latencies_s: list[float]
    num_failed: int
    first_failure: str
    is_cut_short: bool


class LoadGenerator:
    """Sends requests to one address; keeps its connections between two loads."""

    def __init__(self, address: tuple[str, int], requests: Sequence[bytes]) -> None:
        """Prepare to send `requests` in turn, each a whole HTTP/1.1 request."""
        # for the life of the process
        self._address = address
        self._requests = cycle(requests)
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        # for the life of one load
        self._busy: set[_Connection] = set()
        self._waiting: deque[float] = deque()
        self._measured_from = 0.0
        self._latencies_s: list[float] = []
        self._failures: list[str] = []
        self._num_slower: list[int] = []

    def close(self) -> None:
        """Close every connection."""
        for connection in [*self._idle, *self._busy]:
            connection.close()
        self._selector.close()

    def run(self, load: Load) -> Seen:
        """Send a load and wait for the answers.

        Raises:
            OSError: Nobody listens at the address.
        """
        began_at = time.perf_counter()
        self._begin(load, began_at)
        ends_at = self._measured_from + load.seconds
        due_times = self._due_times(load, began_at)
        due_at = next(due_times)
        is_cut_short = False
        while not is_cut_short:
            now = time.perf_counter()
            while due_at <= now and due_at < ends_at:
                self._waiting.append(due_at)
                due_at = next(due_times)
            self._send_waiting(load, closed_loop=not load.rate and now < ends_at)
            if now >= ends_at + load.grace_s or (now >= ends_at and not self._is_waiting()):
                break
            last_at = ends_at if now < ends_at else ends_at + load.grace_s
            self._receive(load, (due_at if due_at < ends_at else last_at) - now)
            is_cut_short = self._is_missed(load)
        return self._end(min(time.perf_counter(), ends_at), is_cut_short=is_cut_short)

    def _begin(self, load: Load, began_at: float) -> None:
        self._waiting.clear()
        self._latencies_s = []
        self._failures = []
        self._num_slower = [0] * len(load.limits)
        self._measured_from = began_at + load.warm_up_s
        self._receive(load, 0)  # an idle connection may have been closed

    def _due_times(self, load: Load, began_at: float) -> Iterator[float]:
        if not load.rate:
            while True:
                yield float("inf")
        chance = random.Random(load.seed)  # noqa: S311  # nothing here is a secret
        due_at = began_at
        while True:
            due_at += chance.expovariate(load.rate)
            yield due_at

    def _is_waiting(self) -> bool:
        return bool(self._busy or self._waiting)

    def _send_waiting(self, load: Load, *, closed_loop: bool) -> None:
        while (closed_loop or self._waiting) and len(self._busy) < load.connections:
            connection = self._idle.pop() if self._idle else _Connection(self)
            due_at = time.perf_counter() if closed_loop else self._waiting.popleft()
            self._busy.add(connection)
            connection.send(next(self._requests), due_at=due_at)

    def _receive(self, load: Load, timeout_s: float) -> None:
        """Handle what arrives within `timeout_s`, or the first of it."""
        if timeout_s > 0:  # a selector's own timeout is rounded up to milliseconds, this one is not
            select.select([self._selector.fileno()], [], [], timeout_s)
        for key, events in self._selector.select(0):
            connection: _Connection = key.data
            if events & selectors.EVENT_WRITE:
                connection.send_rest()
            if events & selectors.EVENT_READ:
                connection.receive()
            if connection.failure is not None or connection.has_answer:
                self._done(connection, load)

    def _done(self, connection: _Connection, load: Load) -> None:
        latency_s = time.perf_counter() - connection.due_at
        if connection in self._busy:
            self._busy.remove(connection)
            if connection.due_at >= self._measured_from:
                self._count(connection.failure, latency_s, load)
        else:  # an idle connection that the server closed
            self._idle.remove(connection)
        if connection.may_go_on:
            connection.has_answer = False
            connection.failure = None
            self._idle.append(connection)
        else:
            connection.close()

    def _count(self, failure: str | None, latency_s: float, load: Load) -> None:
        if failure is not None:
            self._failures.append(failure)
            return
        self._latencies_s.append(latency_s)
        for place, (limit_s, _) in enumerate(load.limits):
            self._num_slower[place] += latency_s > limit_s

    def _is_missed(self, load: Load) -> bool:
        """Whether too many were too slow, or will be: more wait than four times can be sent."""
        if load.limits and len(self._waiting) > 4 * load.connections:
            return True
        return any(num > most for num, (_, most) in zip(self._num_slower, load.limits, strict=True))

    def _end(self, ended_at: float, *, is_cut_short: bool) -> Seen:
        due = [*(connection.due_at for connection in self._busy), *self._waiting]
        if not is_cut_short:
            late = "no answer by the end of the measurement"
            self._failures += [late for due_at in due if due_at >= self._measured_from]
        for connection in self._busy:
            connection.close()
        self._busy.clear()
        return Seen(
            seconds=max(ended_at - self._measured_from, 1e-9),
            latencies_s=sorted(self._latencies_s),
            num_failed=len(self._failures),
            first_failure=self._failures[0] if self._failures else "",
            is_cut_short=is_cut_short,
        )

    # what connections need

    def connected(self, connection: _Connection) -> socket.socket:
        """A socket whose events reach `connection`."""
        sock = socket.create_connection(self._address, timeout=_CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)  # noqa: FBT003  # socket's own signature
        self._selector.register(sock, selectors.EVENT_READ, connection)
        return sock

    def watch(self, sock: socket.socket, connection: _Connection, *, writable: bool) -> None:
        """Wait for answers, and for room to write if `writable`."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self._selector.modify(sock, events, connection)

    def forget(self, sock: socket.socket) -> None:
        """Wait for nothing any more."""
        self._selector.unregister(sock)


class _Connection:
    """One connection: one request at a time, and its answer.

    Attributes:
        due_at: When the request was to be sent.
        has_answer: Whether the answer is complete.
        failure: Why there is no answer with status 200; None as long as there may be.
        may_go_on: Whether the server keeps the connection.
    """

    def __init__(self, generator: LoadGenerator) -> None:
        # for the life of the connection
        self._generator = generator
        self._parser = httptools.HttpResponseParser(self)
        self._sock = generator.connected(self)
        # for the life of one request
        self._unsent = memoryview(b"")
        self._body = bytearray()
        self.due_at = 0.0
        self.has_answer = False
        self.failure: str | None = None
        self.may_go_on = True

    def close(self) -> None:
        self._generator.forget(self._sock)
        self._sock.close()

    def send(self, request: bytes, *, due_at: float) -> None:
        self.due_at = due_at
        self._body.clear()
        self._unsent = memoryview(request)
        self._write()
        if self._unsent:
            self._generator.watch(self._sock, self, writable=True)

    def send_rest(self) -> None:
        self._write()
        if not self._unsent:
            self._generator.watch(self._sock, self, writable=False)

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._unsent = memoryview(b"")
            self._lost(f"the connection broke: {error.strerror}")  # and reads as its end

    def receive(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(f"the connection broke: {error.strerror}")
            return
        if not data:
            self._lost("the server closed the connection")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lost(f"the answer is not HTTP: {error}")

    def _lost(self, why: str) -> None:
        self.may_go_on = False
        self.failure = why

    # called by the parser

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200 and len(self._body) < _SHOWN_BYTES:
            self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            text = self._body[:_SHOWN_BYTES].decode(errors="replace")
            self.failure = f"status {status}: {' '.join(text.split())}"
        self.has_answer = True
        self.may_go_on = self._parser.should_keep_alive() and not self._unsent


def main(arguments: Sequence[str] | None = None) -> int:
    """Send what stdin asks for until it ends; returns the exit status."""
    parser = argparse.ArgumentParser(prog="flambeau.tuning.load_generator")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("requests", nargs="+", type=Path, help="files, a whole HTTP request each")
    args = parser.parse_args(arguments)
    requests = [path.read_bytes() for path in args.requests]
    generator = LoadGenerator((args.host, args.port), requests)
    for line in sys.stdin.buffer:
        seen = generator.run(msgspec.json.decode(line, type=Load))
        sys.stdout.buffer.write(msgspec.json.encode(seen) + b"\n")
        sys.stdout.buffer.flush()
    generator.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
