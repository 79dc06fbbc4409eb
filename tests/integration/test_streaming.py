"""Answers in parts, state between requests, and requests that run beside each other."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator
from functools import partial

import httpx
import pytest

from flambeau.testing import make_archive
from tests.integration.server import Server, running_server

pytestmark = pytest.mark.slow

COUNT = """
    def handle(data, context):
        if data is None:
            return
        (row,) = data
        count = row["body"]["count"]
        context.set_response_content_type(0, "text/plain")
        for number in range(count):
            context.send_intermediate([f"{number} "])
        if row["body"].get("fail"):
            raise ValueError("in the middle")
        return ["end"]
"""
SUM = """
    class Handler:
        def initialize(self, context):
            self.sums = {}

        def handle(self, data, context):
            answers = []
            for idx, row in enumerate(data):
                sequence = context.get_request_header(idx, "ts_request_sequence_id")
                self.sums[sequence] = self.sums.get(sequence, 0) + int(row["body"])
                answers.append({"sum": self.sums[sequence]})
            return answers
"""
STATEFUL = """
    sequenceBatching: true
    maxNumSequence: 2
    maxSequenceJobQueueSize: 2
    batchSize: 4
    minWorkers: 2
    maxWorkers: 2
"""
STEPS = """
    class Handler:
        def initialize(self, context):
            self.left = {}

        def handle(self, data, context):
            ids = [context.get_request_id(idx) for idx in range(len(data))]
            for each, row in zip(ids, data):
                if row:
                    self.left[each] = int(row["body"])
                self.left[each] -= 1
            context.stopping_criteria = [
                lambda _, each=each: self.left[each] == 0 for each in ids
            ]
            return [f"{self.left[each]} " for each in ids]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    store = tmp_path_factory.mktemp("store")
    make_archive(store, name="count", handler=COUNT)
    make_archive(store, name="sum", handler=SUM, model_yaml=STATEFUL)
    make_archive(
        store,
        name="steps",
        handler=STEPS,
        model_yaml="continuousBatching: true\nbatchSize: 2\nminWorkers: 1\nmaxWorkers: 1\n",
    )
    models = [f"{name}-1.0.mar" for name in ("count", "sum", "steps")]
    with running_server(store, models=models) as running:
        yield running


def test_each_part_is_a_chunk_of_its_own(server: Server) -> None:
    body = json.dumps({"count": 3}).encode()
    lines = [
        b"POST /predictions/count HTTP/1.1",
        b"Host: here",
        b"Content-Type: application/json",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
    ]
    url = server.inference.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=60) as client:
        client.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        answer = b""
        while received := client.recv(65536):
            answer += received
    head, _, chunks = answer.partition(b"\r\n\r\n")
    assert b"HTTP/1.1 200 OK" in head
    assert b"ts_stream_next: true" in head
    assert b"content-type: text/plain" in head
    assert chunks == b"2\r\n0 \r\n2\r\n1 \r\n2\r\n2 \r\n3\r\nend\r\n0\r\n\r\n"


def test_an_answer_that_breaks_off_cannot_be_taken_for_whole(server: Server) -> None:
    parts: list[bytes] = []

    def read() -> None:
        order = {"count": 2, "fail": True}
        with server.inference.stream("POST", "/predictions/count", json=order) as response:
            assert response.status_code == 200
            parts.extend(response.iter_raw())

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    assert b"".join(parts) == b"0 1 "
    assert server.predict("count", json={"count": 0}).text == "end"


def test_a_failure_before_the_first_part_is_an_error_like_any_other(server: Server) -> None:
    response = server.predict("count", json={"count": 0, "fail": True})
    assert response.status_code == 503
    assert response.json()["message"] == "Prediction failed"


def add(
    server: Server, number: int, *, sequence: str | None = None, **headers: str
) -> httpx.Response:
    if sequence is not None:
        headers["ts_request_sequence_id"] = sequence
    return server.inference.post(
        "/predictions/sum",
        content=str(number),
        headers={"content-type": "text/plain", **headers},
    )


def test_a_sequence_keeps_its_state_in_one_worker(server: Server) -> None:
    first = add(server, 1)
    sequence = first.headers["ts_request_sequence_id"]
    assert sequence.startswith("ts-seq-")
    assert [add(server, n, sequence=sequence).json()["sum"] for n in (2, 3, 4)] == [3, 6, 10]
    last = add(server, 5, sequence=sequence, ts_request_sequence_end="true")
    assert last.json()["sum"] == 15
    closed = add(server, 6, sequence=sequence)
    assert closed.status_code == 503
    assert closed.json()["message"].startswith('Model "sum" has no worker to serve inference')


def test_two_sequences_do_not_mix_and_a_third_is_refused(server: Server) -> None:
    names = ("a", "b")
    for name in names:
        assert add(server, 1, sequence=name, ts_request_sequence_start="true").json()["sum"] == 1
    third = add(server, 1, sequence="c", ts_request_sequence_start="true")
    assert third.status_code == 503
    assert "maxNumSequence" in third.json()["message"]
    for name in names:
        last = add(server, 1, sequence=name, ts_request_sequence_end="true")
        assert last.json()["sum"] == 2


def test_continuous_requests_stream_until_their_criterion_stops_them(server: Server) -> None:
    def steps(count: int) -> str:
        return server.inference.post(
            "/predictions/steps", content=str(count), headers={"content-type": "text/plain"}
        ).text

    answers = [server.in_thread(partial(steps, count)) for count in (1, 3, 50, 2)]
    expected = ["".join(f"{left} " for left in reversed(range(count))) for count in (1, 3, 50, 2)]
    assert [answer.result(60) for answer in answers] == expected
