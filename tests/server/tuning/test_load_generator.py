"""The load generator against small HTTP servers in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

import pytest

from flambeau.tuning.load_generator import Load, LoadGenerator, Seen

pytestmark = pytest.mark.slow

Answer: TypeAlias = Callable[["Connection", int], None]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PATIENCE_S = 20.0


class Connection(asyncio.Protocol):
    """Counts whole requests of known bodies and lets `answer` answer them."""

    def __init__(self, server: TinyServer) -> None:
        self._server = server
        self._received = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.num_connections += 1
        self._server.transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.transports.discard(self.transport)
        self._server.lost.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        size = self._server.request_bytes
        while len(self._received) >= size:
            self._server.bodies.add(bytes(self._received[:size]))
            del self._received[:size]
            self._server.num_requests += 1
            self._server.answer(self, self._server.num_requests)

    def reply(self, text: bytes = OK) -> None:
        self.transport.write(text)


class TinyServer:
    """What a server was asked, and how it answers."""

    def __init__(self, request_bytes: int, answer: Answer) -> None:
        self.request_bytes = request_bytes
        self.answer = answer
        self.bodies: set[bytes] = set()
        self.num_requests = 0
        self.num_connections = 0
        self.address = ("", 0)
        self.transports: set[asyncio.Transport] = set()
        self.lost = asyncio.Event()


@contextmanager
def server(*, answer: Answer, request_bytes: int) -> Generator[TinyServer]:
    tiny = TinyServer(request_bytes, answer)
    listening = threading.Event()
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def serve() -> None:
        started = await loop.create_server(lambda: Connection(tiny), "127.0.0.1", 0)
        host, port = started.sockets[0].getsockname()
        tiny.address = (host, port)
        listening.set()
        await stopped.wait()
        started.close()
        for transport in tiny.transports:
            transport.abort()
        while tiny.transports:
            tiny.lost.clear()
            await tiny.lost.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert listening.wait(PATIENCE_S)
    try:
        yield tiny
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(PATIENCE_S)
        loop.close()


def request(body: bytes = b"body") -> bytes:
    return b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def run(tiny: TinyServer, load: Load) -> Seen:
    generator = LoadGenerator(tiny.address, [request()])
    try:
        return generator.run(load)
    finally:
        generator.close()


def load_of(
    *,
    rate: float = 0.0,
    connections: int = 4,
    seconds: float = 0.2,
    grace_s: float = PATIENCE_S,
    limits: tuple[tuple[float, int], ...] = (),
) -> Load:
    return Load(
        rate=rate,
        connections=connections,
        warm_up_s=0.02,
        seconds=seconds,
        grace_s=grace_s,
        limits=list(limits),
    )


def at_once(connection: Connection, _: int) -> None:
    connection.reply()


def test_every_request_is_sent_whole_and_in_turn() -> None:
    large = [request(bytes([place]) * 3_000_000) for place in range(2)]
    with server(answer=at_once, request_bytes=len(large[0])) as tiny:
        generator = LoadGenerator(tiny.address, large)
        while len(tiny.bodies) < 2:
            seen = generator.run(load_of(connections=1))
            assert seen.num_failed == 0, seen.first_failure
        generator.close()
    assert tiny.bodies == set(large)


def test_requests_come_at_the_rate_whatever_the_answers() -> None:
    with server(answer=at_once, request_bytes=len(request())) as tiny:
        seen = run(tiny, load_of(rate=500.0, seconds=0.4))
    assert seen.num_failed == 0
    assert 120 <= len(seen.latencies_s) <= 280  # 200 on average, at random moments
    assert seen.latencies_s == sorted(seen.latencies_s)


def test_connections_are_kept_and_no_more_of_them_opened_than_allowed() -> None:
    with server(answer=at_once, request_bytes=len(request())) as tiny:
        generator = LoadGenerator(tiny.address, [request()])
        for _ in range(2):
            assert generator.run(load_of(connections=3)).latencies_s
        generator.close()
    assert 1 <= tiny.num_connections <= 3


def test_a_stall_is_charged_to_all_requests_that_were_due_meanwhile() -> None:
    def stall_first(connection: Connection, number: int) -> None:
        if number == 1:
            asyncio.get_running_loop().call_later(0.4, connection.reply)
        else:
            connection.reply()

    with server(answer=stall_first, request_bytes=len(request())) as tiny:
        seen = run(tiny, load_of(rate=200.0, connections=1, seconds=0.2))
    # some 40 requests were due before the first was answered; all had to wait for its connection
    assert sum(latency > 0.15 for latency in seen.latencies_s) > 15


def test_answers_of_other_statuses_are_failures_that_say_what_they_were() -> None:
    refusal = b'HTTP/1.1 503 Busy\r\ncontent-length: 15\r\n\r\n{"reason": "x"}'
    with server(answer=lambda c, _: c.reply(refusal), request_bytes=len(request())) as tiny:
        seen = run(tiny, load_of(rate=100.0))
    assert not seen.latencies_s
    assert seen.num_failed > 0
    assert seen.first_failure == 'status 503: {"reason": "x"}'


def test_chunked_answers_are_answers() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    with server(answer=lambda c, _: c.reply(chunked), request_bytes=len(request())) as tiny:
        seen = run(tiny, load_of(connections=1))
    assert seen.num_failed == 0
    assert seen.latencies_s


def test_a_connection_that_is_closed_without_an_answer_is_a_failure() -> None:
    with server(answer=lambda c, _: c.transport.close(), request_bytes=len(request())) as tiny:
        seen = run(tiny, load_of(rate=100.0))
    assert seen.num_failed > 0
    assert "closed" in seen.first_failure


def test_what_is_not_answered_by_the_end_is_a_failure() -> None:
    with server(answer=lambda _c, _n: None, request_bytes=len(request())) as tiny:
        seen = run(tiny, load_of(rate=200.0, grace_s=0.0))
    assert not seen.latencies_s
    assert seen.num_failed > 0
    assert "no answer" in seen.first_failure


def test_a_load_that_cannot_be_met_any_more_ends_early() -> None:
    with server(answer=lambda _c, _n: None, request_bytes=len(request())) as tiny:
        hopeless = load_of(rate=1000.0, connections=1, seconds=3600.0, limits=((0.001, 0),))
        seen = run(tiny, hopeless)
    assert seen.is_cut_short


def test_a_server_that_is_not_there_is_an_error() -> None:
    with server(answer=at_once, request_bytes=1) as tiny:
        pass
    with pytest.raises(ConnectionRefusedError):
        run(tiny, load_of())
