"""Sending recorded requests to a server, byte for byte, and noting what comes back.

The connection is a plain socket, one per request, so that nothing is added to a request and
nothing in the answer (spelling of headers, chunks, an early end) is smoothed over.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final
from urllib.parse import urlsplit

import httptools

from flambeau.torchserve.exchange import Answer, Exchange, Request
from flambeau.torchserve.launch import Port

ANSWER_TIMEOUT_S: Final = 60.0
_REPEAT_TIMEOUT_S: Final = 90.0
_REPEAT_EVERY_S: Final = 0.1
_MAX_PIECE_BYTES: Final = 1 << 16


def replay(
    requests: Sequence[Request],
    urls: Mapping[Port, str],
    *,
    values: Mapping[str, str],
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> list[Exchange]:
    """Send requests in order, and those that belong together at once.

    Args:
        requests: What to send.
        urls: The base URL of each listener.
        values: What replaces tags in requests.
        timeout_s: How long to wait for each answer; one that does not come counts as none.
    """

    def exchange(request: Request) -> Exchange:
        filled = request.filled(values)
        answer = _send_until(filled, urls[request.port], timeout_s)
        return Exchange(request=request, answer=answer)

    exchanges: list[Exchange] = []
    with ThreadPoolExecutor(max_workers=32) as threads:
        for group in _groups(requests):
            exchanges += threads.map(exchange, group)
    return exchanges


def send(request: Request, url: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
    """Send one request, whose tags are filled in, on a connection of its own."""
    address = urlsplit(url)
    assert address.hostname is not None
    begun_at = time.monotonic()
    collected = _Collected(has_body=request.method != "HEAD")
    parser = httptools.HttpResponseParser(collected)
    try:
        with socket.create_connection(
            (address.hostname, address.port or 80), timeout=timeout_s
        ) as connection:
            connection.sendall(_head(request, address.netloc) + (request.body or b""))
            while not collected.is_complete and (piece := connection.recv(_MAX_PIECE_BYTES)):
                parser.feed_data(piece)
    except (OSError, httptools.HttpParserError):
        pass  # what came until then is the answer
    answer = collected.answer(status=parser.get_status_code())
    return replace(answer, duration_s=time.monotonic() - begun_at)


def _groups(requests: Sequence[Request]) -> Iterator[list[Request]]:
    for word, group in groupby(requests, key=lambda request: request.together):
        if word is None:
            yield from ([request] for request in group)
        else:
            yield list(group)


def _send_until(request: Request, url: str, timeout_s: float) -> Answer:
    deadline_at = time.monotonic() + _REPEAT_TIMEOUT_S
    while True:
        answer = send(request, url, timeout_s=timeout_s)
        wanted = request.until is None or answer.status == request.until
        wanted &= request.until_text is None or request.until_text.encode() in answer.body
        if wanted or time.monotonic() > deadline_at:
            return answer
        time.sleep(_REPEAT_EVERY_S)


def _head(request: Request, netloc: str) -> bytes:
    lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {netloc}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    names = {name.lower() for name, _ in request.headers}
    if request.body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(request.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class _Collected:
    """What httptools calls back with."""

    has_body: bool
    reason: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    chunks: list[int] = field(default_factory=list)
    is_complete: bool = False

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.is_complete = not self.has_body

    def on_chunk_header(self) -> None:
        self.chunks.append(0)

    def on_body(self, piece: bytes) -> None:
        self.body += piece
        if self.chunks:
            self.chunks[-1] += len(piece)

    def on_message_complete(self) -> None:
        self.is_complete = True

    def answer(self, *, status: int) -> Answer:
        """The answer so far; `status` is 0, no answer, before its first line has come."""
        chunked = any(name.lower() == "transfer-encoding" for name, _ in self.headers)
        return Answer(
            status=status,
            reason=self.reason.decode("latin-1"),
            headers=tuple(self.headers),
            body=bytes(self.body),
            chunks=tuple(size for size in self.chunks if size) if chunked else None,
            cut_off=bool(status) and not self.is_complete,
        )
