"""The fast lane and the routes beside it answer the same: one corpus, byte for byte."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

import pytest

from flambeau.testing import make_archive
from tests.integration.archives import service
from tests.integration.server import JSON, PATIENCE_S, Server, running_server, wait_until

ONE_MIB = 1 << 20
MAX_REQUEST_BYTES = 3 * ONE_MIB
CHANGING = (
    (re.compile(rb"date: [^\r]*"), b"date: DATE"),
    (re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"), b"UUID"),
    (re.compile(rb'"pid": [0-9]+'), b'"pid": PID'),
)
# a request with this ends each conversation, so that its answer is the last
LAST = b"GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def post(
    path: str,
    body: bytes = b"",
    *headers: str,
    version: str = "1.1",
    host: str | None = "h",
    length: int | None = None,
) -> bytes:
    """A request; its length is the body's unless another is told."""
    lines = [f"POST {path} HTTP/{version}"]
    lines += [f"Host: {host}"] if host is not None else []
    lines += [*headers, f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(path: str, *chunks: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    parts = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    return b"".join([head, *parts, b"0\r\n\r\n"])


def form(name: str, value: bytes) -> bytes:
    return (
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + value
        + b"\r\n--b--\r\n"
    )


JSON_TYPE = "Content-Type: application/json"
FORM_TYPE = "Content-Type: multipart/form-data; boundary=b"
PING = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"

CORPUS: dict[str, bytes] = {
    "bytes": post("/predictions/echo", b"hello"),
    "JSON": post("/predictions/echo", b'{"a": [1, 2.5]}', JSON_TYPE),
    "JSON that does not parse": post("/predictions/echo", b'{"a": ', JSON_TYPE),
    "text": post("/predictions/echo", "grüß".encode(), "Content-Type: text/plain"),
    "no body": post("/predictions/echo"),
    "a version": post("/predictions/echo/2.0", b"x"),
    "a version and more": post("/predictions/echo/2.0/and/more", b"x"),
    "an explanation": post("/explanations/echo", b"x"),
    "KServe 1": post("/v1/models/echo:predict", b"{}", JSON_TYPE),
    "KServe 2": post("/v2/models/echo/infer", b"{}", JSON_TYPE),
    "KServe 2, a version": post("/v2/models/echo/versions/2.0/infer", b"{}", JSON_TYPE),
    "SageMaker": post("/models/echo/invoke", b"x"),
    "SageMaker, named in the query": post("/invocations?model_name=echo", b"x"),
    "the oldest": post("/echo/predict?data=1", b"x"),
    "a query": post("/predictions/echo?top=3&x=%20", b"x"),
    "escapes in the path": post("/predictions/%65cho", b"x"),
    "a slash at the end": post("/predictions/echo/", b"x"),
    "two slashes": post("//predictions/echo", b"x"),
    "many headers": post("/predictions/echo", b"x", *(f"X-H{i}: {i}" for i in range(40))),
    "a repeated header": post("/predictions/echo", b"x", "X-A: 1", "x-a: 2"),
    "headers of ours": post("/predictions/echo", b"x", "X-Request-Id: mine", "url_path: forged"),
    "letters beyond ASCII in a header": post("/predictions/echo", b"x", "X-Name: grüß"),
    "a form": post("/predictions/echo", form("data", b"abc"), FORM_TYPE),
    "an empty form": post("/predictions/echo", b"--b--\r\n", FORM_TYPE),
    "a form without its end": post("/predictions/echo", form("data", b"abc")[:-4], FORM_TYPE),
    "a form without a boundary": post(
        "/predictions/echo", b"x", "Content-Type: multipart/form-data"
    ),
    "fields": post(
        "/predictions/echo", b"a=1&b=2", "Content-Type: application/x-www-form-urlencoded"
    ),
    "chunks": chunked("/predictions/echo", b"one", b"two", b"three" * 1000),
    "no chunks": chunked("/predictions/echo"),
    "a large body": post("/predictions/echo", b"x" * ONE_MIB),
    "too large, announced": post("/predictions/echo", length=MAX_REQUEST_BYTES + 1),
    "too large, in chunks": chunked("/predictions/echo", *[b"x" * ONE_MIB] * 4),
    "no such model": post("/predictions/nobody", b"x"),
    "no such version": post("/predictions/echo/9.9", b"x"),
    "no model": post("/predictions", b"x"),
    "no such path": post("/nothing/here/at/all", b"x"),
    "GET": b"GET /predictions/echo HTTP/1.1\r\nHost: h\r\n\r\n",
    "OPTIONS": b"OPTIONS /predictions/echo HTTP/1.1\r\nHost: h\r\n\r\n",
    "HEAD": b"HEAD /predictions/echo HTTP/1.1\r\nHost: h\r\n\r\n",
    "lower-case method": post("/predictions/echo", b"x").replace(b"POST", b"post"),
    "no host": post("/predictions/echo", b"x", host=None),
    "two hosts": post("/predictions/echo", b"x", "Host: other"),
    "an empty host": post("/predictions/echo", b"x", host=""),
    "a bad host": post("/predictions/echo", b"x", host="a b"),
    "HTTP/1.0": post("/predictions/echo", b"x", version="1.0"),
    "HTTP/1.0 without a host": post("/predictions/echo", b"x", version="1.0", host=None),
    "HTTP/1.0, kept alive": post(
        "/predictions/echo", b"x", "Connection: keep-alive", version="1.0"
    ),
    "the last": post("/predictions/echo", b"x", "Connection: close"),
    "an upgrade": post("/predictions/echo", b"x", "Connection: close, upgrade", "Upgrade: x"),
    "100-continue": post("/predictions/echo", b"x", "Expect: 100-continue"),
    "100-continue to nobody": post("/predictions/nobody", b"x", "Expect: 100-continue"),
    "bad length": post("/predictions/echo", b"x").replace(b"Length: 1", b"Length: one"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01",
    "two lengths": post("/predictions/echo", b"x", "Content-Length: 1"),
    "length and chunks": post("/predictions/echo", b"x", "Transfer-Encoding: chunked"),
    "a status of the handler's": post("/predictions/statuses", b'{"status": 201}', JSON_TYPE),
    "no content": post("/predictions/statuses", b'{"status": 204, "body": ""}', JSON_TYPE),
    "not modified": post("/predictions/statuses", b'{"status": 304, "body": ""}', JSON_TYPE),
    "a status of the handler's error": post("/predictions/statuses", b'{"error": 418}', JSON_TYPE),
    "no status at all": post("/predictions/statuses", b'{"status": 42}', JSON_TYPE),
    "headers of the handler's": post(
        "/predictions/statuses",
        b'{"headers": {"X-A": "1", "Content-Type": "text/csv", "Connection": "close"}}',
        JSON_TYPE,
    ),
    "a header that HTTP cannot carry": post(
        "/predictions/statuses", b'{"headers": {"X-A": "1\\r\\nX-B: 2"}}', JSON_TYPE
    ),
    "an exception": post("/predictions/statuses", b'{"raise": true}', JSON_TYPE),
    "an answer in parts": post("/predictions/streams", b"x"),
    "an answer in parts, the last": post("/predictions/streams", b"x", "Connection: close"),
    "a pipeline": b"".join(post("/predictions/echo", b"%d" % i) for i in range(20)),
    "a mixed pipeline": b"".join(
        [
            post("/predictions/echo", b"1"),
            PING,
            post("/predictions/nobody", b"2"),
            post("/predictions/streams", b"3"),
            post("/predictions/statuses", b'{"raise": true}', JSON_TYPE),
            chunked("/predictions/echo", b"4", b"5"),
            post("/%65cho/predict", b"6"),
        ]
    ),
    "a long pipeline of errors": post("/predictions/nobody", b"") * 2000,
    "a pipeline behind too large a body": post("/predictions/echo", b"x" * (MAX_REQUEST_BYTES + 1))
    + post("/predictions/echo", b"x"),
}

STATUSES = """
from flambeau.errors import HandlerFailed

def handle(data, context):
    if data is None:
        return None
    answers = []
    for place, row in enumerate(data):
        wish = row["body"]
        if wish.get("raise"):
            raise ValueError("as wished")
        if "error" in wish:
            answers.append(HandlerFailed("as wished", status=wish["error"]))
            continue
        if "status" in wish:
            context.set_response_status(wish["status"], idx=place)
        for name, value in wish.get("headers", {}).items():
            context.set_response_header(place, name, value)
        answers.append(wish.get("body", "answer"))
    return answers
"""
STREAMS = """
def handle(data, context):
    if data is None:
        return None
    for part in range(3):
        context.send_intermediate([f"part {part};" for _ in data])
    return ["end" for _ in data]
"""


@dataclass(frozen=True)
class Lanes:
    """A server with the fast lane, and one without."""

    fast: Server
    routes: Server


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Generator[Lanes]:
    store = tmp_path_factory.mktemp("store")
    service(store, "echo")
    service(store, "echo", version="2.0")
    service(store, "held")
    for name, source in (("statuses", STATUSES), ("streams", STREAMS)):
        make_archive(store, name=name, handler=source)
    models = [f"{name}={name}-1.0.mar" for name in ("echo", "held", "statuses", "streams")]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                running_server(
                    store,
                    lane,
                    "--archive-digest-header",
                    *("--max-request-bytes", str(MAX_REQUEST_BYTES)),
                    models=models,
                )
            )
            for lane in ("--fast-lane", "--no-fast-lane")
        ]
        for server in servers:
            assert server.register(store / "echo-2.0.mar").status_code == 200
        yield Lanes(*servers)


def connect(server: Server) -> socket.socket:
    url = server.inference.base_url
    return socket.create_connection((url.host, url.port or 0), PATIENCE_S)


def ask(server: Server, request: bytes) -> bytes:
    """All that comes back on one connection, with what changes each time taken out."""
    with connect(server) as client:
        sending: Future[None] = server.in_thread(lambda: _send(client, request + LAST))
        answer = b"".join(iter(lambda: _receive(client), b""))
        sending.result()
    for pattern, mask in CHANGING:
        answer = pattern.sub(mask, answer)
    return answer


def _send(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return  # it is refused before it is whole


def _receive(client: socket.socket) -> bytes:
    try:
        return client.recv(1 << 16)
    except ConnectionResetError:
        return b""  # what came before is the answer


@pytest.mark.parametrize("name", CORPUS)
def test_both_lanes_answer_the_same_bytes(lanes: Lanes, name: str) -> None:
    fast, routes = (ask(server, CORPUS[name]) for server in (lanes.fast, lanes.routes))
    assert fast == routes
    assert fast.startswith(b"HTTP/1.1 ")


def test_the_corpus_meets_every_kind_of_answer(lanes: Lanes) -> None:
    """Else the test above might compare errors only."""
    statuses = {
        name: re.findall(rb"HTTP/1.1 (\d+)", ask(lanes.fast, CORPUS[name])) for name in CORPUS
    }
    assert statuses["bytes"] == [b"200", b"200"]
    assert statuses["100-continue"] == [b"100", b"200", b"200"]
    assert statuses["a long pipeline of errors"] == [b"404"] * 2000 + [b"200"]
    assert statuses["a mixed pipeline"] == [
        *(b"200", b"200", b"404", b"200", b"503", b"200", b"200", b"200")
    ]
    assert {status for found in statuses.values() for status in found} >= {
        *(b"100", b"200", b"201", b"204", b"304", b"400", b"404", b"405", b"413", b"418", b"503")
    }


def test_an_answer_tells_the_archive_it_comes_from_if_the_server_is_to(lanes: Lanes) -> None:
    for server in (lanes.fast, lanes.routes):
        described = server.management.get("/models/echo/all").json()
        digests = {each["modelVersion"]: each["archiveDigest"] for each in described}
        for name, version in (("bytes", "1.0"), ("a version", "2.0")):
            told = f"x-archive-digest: {digests[version]}\r\n".encode()
            assert told in ask(server, CORPUS[name])


REPEATED = (
    *("bytes", "JSON", "JSON that does not parse", "text", "a version", "many headers", "a form"),
    *("fields", "chunks", "no body", "an exception", "an answer in parts", "no such version"),
    *("a status of the handler's", "escapes in the path"),
)


def exchange(client: socket.socket, request: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """One request and its answer, on a connection that stays."""
    client.sendall(request)
    with HTTPResponse(client, method="POST") as response:
        response.begin()
        body = response.read()
    changing = {"date", "x-request-id"}
    headers = [pair for pair in response.getheaders() if pair[0].lower() not in changing]
    for pattern, mask in CHANGING:
        body = pattern.sub(mask, body)
    return response.status, headers, body


@pytest.mark.parametrize("name", REPEATED)
def test_a_request_that_comes_again_on_its_connection_is_answered_alike(
    lanes: Lanes, name: str
) -> None:
    with connect(lanes.fast) as client:
        answers = [exchange(client, CORPUS[name]) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_requests_that_look_alike_are_told_apart(lanes: Lanes) -> None:
    known, other = post("/predictions/echo", b"12345"), post("/predictions/ech0", b"12345")
    with connect(lanes.fast) as client:
        for _ in range(2):
            assert exchange(client, known)[2].count(b"12345") == 1
        assert exchange(client, other)[0] == 404
        assert exchange(client, post("/predictions/echo", b"54321"))[2].count(b"54321") == 1
        # the same bytes, of which the first still belong to the request before
        client.sendall(known[:-5])
        assert exchange(client, b"12345")[0] == 200
        client.sendall(post("/predictions/echo", known)[: -len(known)])
        answer = exchange(client, known)[2]
        assert b"POST /predictions/echo" in answer
        assert exchange(client, known)[2].count(b"POST") == 0


def test_a_request_in_small_pieces_is_answered(lanes: Lanes) -> None:
    request = post("/predictions/echo", b"piecemeal") + LAST
    for server in (lanes.fast, lanes.routes):
        with connect(server) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place in range(len(request)):
                client.sendall(request[place : place + 1])
            answer = b"".join(iter(lambda: _receive(client), b""))
        assert b"piecemeal" in answer


def test_a_client_that_reads_late_gets_every_answer(lanes: Lanes) -> None:
    num_requests = 20
    request = post("/predictions/echo", b"x" * 100_000) * num_requests + LAST
    for server in (lanes.fast, lanes.routes):
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            sending = server.in_thread(lambda: _send(client, request))
            answer = b"".join(iter(lambda: _receive(client), b""))
            sending.result()
        assert answer.count(b"HTTP/1.1 200 OK") == num_requests + 1
        assert answer.count(b"x" * 100_000) == num_requests


def test_requests_of_clients_that_leave_are_withdrawn_and_counted(
    lanes: Lanes, tmp_path: Path
) -> None:
    def leave(server: Server) -> None:
        gate = tmp_path / f"{server.process.pid}.gate"
        started = gate.with_name("held.started")
        with connect(server) as client:
            client.sendall(post("/predictions/echo", b"half", length=100))
        held = f'{{"name": "held", "gate": "{gate}"}}'.encode()
        with connect(server) as client:
            client.sendall(post("/predictions/held", held, JSON_TYPE))
            wait_until(started.exists, what="the handler has the request")
        started.unlink()
        wait_until(
            lambda: outcomes(server, "held")["cancelled"] == 1, what="the request is cancelled"
        )
        gate.touch()
        wait_until(
            lambda: [record["status"] for record in logged(server)].count(499) == 2,
            what="both clients are in the log",
        )

    for server in (lanes.fast, lanes.routes):
        leave(server)


def test_both_lanes_count_and_log_the_same(lanes: Lanes) -> None:
    names = ("bytes", "no such model", "an exception", "an answer in parts", "a mixed pipeline")

    def growth(server: Server) -> tuple[Counter[str], Counter[tuple[str, ...]]]:
        counts, lines = counted(server), logged_lines(server)
        for name in names:
            ask(server, CORPUS[name])
        num_requests = sum(CORPUS[name].count(b"POST /") for name in names)  # probes are quiet
        wait_until(
            lambda: len(logged(server)) == sum(lines.values()) + num_requests,
            what="all of it is logged",
        )
        return counted(server) - counts, logged_lines(server) - lines

    assert growth(lanes.fast) == growth(lanes.routes)


def counted(server: Server) -> Counter[str]:
    """Requests and responses by everything that metrics tell of them."""
    names = ("flambeau_requests_total", "flambeau_http_responses_total")
    return Counter(
        {
            f"{name}{labels}": int(value)
            for name in names
            for labels, value in server.samples(name).items()
            if 'listener="metrics"' not in labels and 'listener="management"' not in labels
        }
    )


def outcomes(server: Server, model: str) -> Counter[str]:
    """Requests of a model's, by outcome."""
    counts: Counter[str] = Counter()
    for labels, value in server.samples("flambeau_requests_total").items():
        if f'model="{model}"' in labels:
            counts[re.findall('outcome="([a-z_]+)"', labels)[0]] += int(value)
    return counts


def logged(server: Server) -> list[JSON]:
    return [
        record
        for record in server.records()
        if record["logger"] == "flambeau.access" and record["listener"] == "inference"
    ]


def logged_lines(server: Server) -> Counter[tuple[str, ...]]:
    """What the access log says of requests, and how often, without what changes each time."""
    kept = ("level", "message", "method", "path", "http_version", "status")
    return Counter(tuple(str(record[key]) for key in kept) for record in logged(server))
