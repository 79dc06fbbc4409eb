from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

from flambeau.torchserve.exchange import NO_ANSWER, Request
from flambeau.torchserve.launch import Port
from flambeau.torchserve.replay import replay, send

REQUEST = Request(
    name="r",
    port=Port.INFERENCE,
    method="POST",
    target="/p?q=1",
    headers=(("X-Y", "z"),),
    body=b"abc",
)


class Canned:
    """A server that gives the same bytes to everybody and keeps what it was sent."""

    def __init__(self, answers: list[bytes]) -> None:
        self.received: list[bytes] = []
        self._answers = answers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listening.accept()
            with connection:
                self.received.append(connection.recv(65536))
                connection.sendall(answer)

    def __enter__(self) -> Canned:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._thread.join()
        self._listening.close()


@contextmanager
def canned(*answers: bytes) -> Generator[Canned]:
    with Canned(list(answers)) as server:
        yield server


def test_a_request_is_sent_byte_for_byte() -> None:
    with canned(b"HTTP/1.1 204 Nothing\r\n\r\n") as server:
        send(REQUEST, server.url)
    host = server.url.removeprefix("http://")
    assert server.received == [
        f"POST /p?q=1 HTTP/1.1\r\nHost: {host}\r\nX-Y: z\r\nContent-Length: 3\r\n\r\nabc".encode()
    ]


def test_the_answer_keeps_spelling_words_and_chunks() -> None:
    chunked = b"HTTP/1.1 222 My words\r\nX-One: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with canned(chunked + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n") as server:
        answer = send(REQUEST, server.url)
    assert (answer.status, answer.reason, answer.body) == (222, "My words", b"abc")
    assert answer.headers[0] == ("X-One", "a")
    assert answer.chunks == (2, 1)
    assert not answer.cut_off


def test_an_answer_that_ends_early_is_cut_off() -> None:
    with canned(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") as server:
        answer = send(REQUEST, server.url)
    assert (answer.status, answer.body, answer.cut_off) == (200, b"abc", True)


def test_a_connection_that_closes_without_a_word_is_no_answer() -> None:
    with canned(b"") as server:
        answer = send(REQUEST, server.url)
    assert (answer.status, answer.cut_off) == (NO_ANSWER, False)


def test_a_request_is_repeated_until_it_has_its_status() -> None:
    busy, done = b"HTTP/1.1 503 Busy\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    request = Request(name="r", port=Port.METRICS, method="GET", target="/", until=200)
    with canned(busy, busy, done) as server:
        (exchange,) = replay([request], {Port.METRICS: server.url}, values={})
    assert exchange.answer.status == 200
    assert len(server.received) == 3
