"""Clients that take their time: how long they may, and that others do not wait for them."""

from __future__ import annotations

import json
import resource
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.archives import service
from tests.integration.conversation import (
    Answer,
    answers,
    connect,
    converse,
    receive,
    send,
    until_answered,
)
from tests.integration.server import PATIENCE_S, Server, running_server, wait_until

TIMEOUT_S = 1.0  # of everything that the server waits for
LANES = ("fast", "routes")
PING = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
MAX_FILES = 128


def target(model: str, lane: str) -> str:
    """A model's address; the routes get it with its first letter escaped."""
    return (
        f"/predictions/{model}" if lane == "fast" else f"/predictions/%{ord(model[0]):x}{model[1:]}"
    )


def post(path: str, body: bytes = b"x", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves echo and held, and waits for clients only a second."""
    store = tmp_path_factory.mktemp("store")
    service(store, "echo")
    service(store, "held")
    with running_server(
        store,
        *("--header-timeout-s", str(TIMEOUT_S)),
        *("--body-timeout-s", str(TIMEOUT_S)),
        *("--write-timeout-s", str(TIMEOUT_S)),
        *("--keep-alive-s", str(TIMEOUT_S)),
        models=["echo=echo-1.0.mar", "held=held-1.0.mar"],
    ) as running:
        yield running
        assert not [record for record in running.records() if record["level"] == "ERROR"]


SLOW: dict[str, tuple[bytes, list[int]]] = {
    "silence": (b"", []),
    "empty lines": (b"\r\n\r\n", []),
    "half a request line": (b"GET /pi", [408]),
    "half of the headers": (PING[:-4], [408]),
    "silence after an answer": (PING, [200]),
    "half of the next headers": (PING + PING[:-4], [200, 408]),
    **{
        f"{name}, {lane}": (data, statuses)
        for lane in LANES
        for name, data, statuses in (
            ("half a body", post(target("echo", lane), b"x", length=9), [408]),
            ("no body", post(target("echo", lane), b"", length=9), [408]),
            ("no body of a refused request", post(target("nobody", lane), b"", length=9), [404]),
            (
                "half a chunk",
                f"POST {target('echo', lane)} HTTP/1.1\r\nHost: h\r\n"
                "Transfer-Encoding: chunked\r\n\r\n5\r\nab".encode(),
                [408],
            ),
        )
    },
}


def test_what_does_not_come_in_time_is_not_waited_for(server: Server) -> None:
    with ExitStack() as stack:
        clients = {name: stack.enter_context(connect(server)) for name in SLOW}
        for name, (data, _) in SLOW.items():
            clients[name].sendall(data)
        began_at = time.monotonic()
        for name, (_, statuses) in SLOW.items():
            found = answers(receive(clients[name]))
            assert [each.status for each in found] == statuses, name
            for each in found:
                if each.status == 408:
                    assert each.error()["type"] == "RequestTimeoutException"
        assert time.monotonic() - began_at >= TIMEOUT_S * 0.9


@pytest.mark.parametrize("begin", [b"GET /", post("/predictions/echo", b"", length=10_000)])
def test_a_byte_now_and_then_does_not_count_as_coming(server: Server, begin: bytes) -> None:
    with connect(server) as client:
        client.sendall(begin)
        while not select.select([client], [], [], 0.05)[0]:
            send(client, b"x")
        assert [each.status for each in answers(receive(client))] == [408]


def test_many_slow_clients_stop_nobody(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(200)]
        for place, client in enumerate(clients):
            client.sendall((b"", PING[:-4], post("/predictions/echo", b"x", length=9))[place % 3])
        for _ in range(20):
            assert server.predict("echo", json={}).status_code == 200
        for client in clients:
            receive(client)


@pytest.mark.parametrize("lane", LANES)
def test_an_answer_that_nobody_reads_is_given_up(server: Server, lane: str) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = server.inference.base_url
        client.connect((url.host, url.port or 0))
        client.settimeout(PATIENCE_S)
        many = post(target("echo", lane), b"x" * 100_000) * 100
        sending = server.in_thread(lambda: send(client, many))
        port = client.getsockname()[1]
        wait_until(lambda: not is_open(server, port), what="the connection is dropped")
        sending.result()
    assert server.predict("echo", json={}).status_code == 200


def is_open(server: Server, port: int) -> bool:
    """Whether the server has a connection with this port of a client's."""
    found = server.front().net_connections("tcp")
    return any(port in each.raddr for each in found)


@pytest.mark.parametrize("lane", LANES)
def test_who_sends_no_more_is_still_answered(server: Server, gate: Path, lane: str) -> None:
    order = f'{{"name": "half-{lane}", "gate": "{gate}"}}'.encode()
    head = (
        f"POST {target('held', lane)} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(order)}\r\n\r\n"
    )
    with connect(server) as client:
        client.sendall(head.encode() + order)
        client.shutdown(socket.SHUT_WR)
        wait_until(
            gate.with_name(f"half-{lane}.started").exists, what="the handler has the request"
        )
        interim = client.recv(100)  # what shows whether the client has left altogether
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        gate.touch()
        found = answers(receive(client))
    assert [each.status for each in found] == [200]


@pytest.mark.parametrize("lane", LANES)
def test_who_sends_no_more_gets_every_answer_in_order(server: Server, lane: str) -> None:
    with connect(server) as client:
        requests = [post(target("echo", lane), b"%d" % place) for place in range(20)]
        client.sendall(b"".join([*requests, PING, post("/predictions/nobody"), b"\0"]))
        client.shutdown(socket.SHUT_WR)
        found = answers(receive(client))
    assert [each.status for each in found] == [200] * 21 + [404, 400]
    assert [json.loads(each.body)["inputs"]["body"][1] for each in found[:20]] == [
        str(place) for place in range(20)
    ]


def test_of_a_request_cut_short_nothing_is_answered_but_those_before_it_are(
    server: Server,
) -> None:
    def cut(data: bytes) -> list[Answer]:
        with connect(server) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return answers(receive(client))

    half = post("/predictions/echo", b"x", length=9)
    assert cut(half) == []
    assert cut(PING[:-4]) == []
    assert [each.status for each in cut(post("/predictions/echo") + half)] == [200]
    assert [each.status for each in cut(post("/predictions/echo") + PING[:-4])] == [200]


def test_a_refused_client_that_goes_on_sending_can_read_why(server: Server) -> None:
    """A reset would overtake the answer."""
    body = b"x" * 20_000_000
    found = answers(converse(server, post("/predictions/echo", body)))
    assert [each.status for each in found] == [413]


def test_more_connections_than_there_may_be_are_refused_and_the_server_recovers(
    tmp_path: Path,
) -> None:
    service(tmp_path, "echo")
    with ExitStack() as stack:
        server = with_few_files(
            lambda: stack.enter_context(
                running_server(tmp_path, "--no-grpc", models=["echo=echo-1.0.mar"])
            )
        )
        idle = server.front().num_fds()
        assert idle <= 64, "more files than are set aside for what is no connection"
        with ExitStack() as crowd:
            clients = [crowd.enter_context(connect(server)) for _ in range(300)]
            refused = 0
            for client in clients:
                send(client, PING)
                (answer,) = answers(until_answered(client))
                if answer.status == 503:
                    refused += 1
                    assert answer.error()["type"] == "ServiceUnavailableException"
                    assert answer.headers["retry-after"] == "1"
                    assert answer.headers["connection"] == "close"
                else:
                    assert answer.status == 200
            assert 0 < len(clients) - refused <= (MAX_FILES - 64) * 3 // 4
            assert server.management.get("/readyz").status_code == 200
        wait_until(
            lambda: server.front().num_fds() <= idle + 8,
            what="the connections are gone",
        )
        assert server.predict("echo", json={}).status_code == 200
        server.wait_record(lambda record: "max_connections" in record["message"])


def with_few_files(start: Callable[[], Server]) -> Server:
    """Start a server that may have few files; this process keeps what it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, hard))
    try:
        return start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_with_an_idle_tls_connection_does_not_delay_the_end(tmp_path: Path) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with (
        running_server(
            tmp_path, "--inference-address", "https://127.0.0.1:0", "--no-metrics-api"
        ) as server,
        connect(server) as plain,
        trusting.wrap_socket(plain) as client,
    ):
        client.sendall(PING)
        assert answers(until_answered(client))[0].status == 200
        began_at = time.monotonic()
        server.stop()
        assert server.wait_ended() == 0
        assert time.monotonic() - began_at < 10  # the client's goodbye would be waited for for 30 s
