"""What a client should not send: three corpora against one server, over both lanes.

Each case gets exactly the answers it should get, each error is the documented JSON, and afterwards
the connection is in step or closed, as the case says. Nothing is a 5xx, and nothing wears off on
the workers or on the memory of the front.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from tests.faults.collected import RecordProperty
from tests.integration.archives import service, summing
from tests.integration.conversation import Answer, answers, converse
from tests.integration.corpus import read_corpus, to_bytes
from tests.integration.server import Server, running_server

LANES = {"fast": "/predictions/echo", "routes": "/predictions/%65cho"}
PING = b"GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
HTTP, JSON_BODIES, NAMES = (read_corpus(name) for name in ("http", "json", "names"))
JSON_TARGETS = {
    "v2": ("inference", "/v2/models/tensors/infer"),
    "numbers": ("inference", "/predictions/summing"),
    "management": ("management", "/models"),
}
MAX_REQUEST_BYTES = 100_000
MAX_GROWTH_BYTES = 8 << 20  # per 1,000 repeats
NUM_REPEATS = int(os.environ.get("NUM_REPEATS", "100"))  # of the worst; `make faults` has 1,000
WORST = (
    "headers: too long for a model",
    "chunks: extensions that never end",
    "line: too long for a model",
    "pipeline: a bad one behind a good one",
    "upgrade: again and again",
)

TENSORS = """
def handle(data, context):
    return data and [each["data"] for each in data]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves echo, summing and tensors, which speaks KServe's second protocol."""
    store = tmp_path_factory.mktemp("store")
    service(store, "echo")
    summing(store)
    manifest = {"model": {"modelName": "tensors", "handler": "tensors.py", "envelope": "kservev2"}}
    with zipfile.ZipFile(store / "tensors-1.0.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("tensors.py", TENSORS)
    models = ("echo", "summing", "tensors")
    with running_server(
        store,
        *("--max-request-bytes", str(MAX_REQUEST_BYTES)),
        models=[f"{name}={name}-1.0.mar" for name in models],
    ) as running:
        pids = [running.pids(model) for model in models]
        yield running
        assert [running.pids(model) for model in models] == pids
        assert running.predict("summing", json=[1, 2, 3]).json() == 6
        assert not [record for record in running.records() if record["level"] == "ERROR"]


@pytest.fixture(autouse=True)
def still_alive(server: Server) -> Generator[None]:
    """Whatever a test has sent, the next request is answered."""
    yield
    assert [each.status for each in answers(converse(server, PING))] == [200]
    assert server.predict("summing", json=[1, 2, 3]).json() == 6


def test_the_corpora_are_as_large_as_promised() -> None:
    assert len(HTTP) >= 180
    assert sum(name.startswith(("framing", "chunks", "pipeline")) for name in HTTP) >= 60
    assert len(JSON_BODIES) >= 160
    assert len(NAMES) >= 80


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("kind", sorted({name.partition(": ")[0] for name in HTTP}))
def test_bytes_that_are_no_request_are_refused(
    server: Server, kind: str, lane: str, record_property: RecordProperty
) -> None:
    answered: Counter[str] = Counter()
    for name, case in HTTP.items():
        if name.startswith(f"{kind}: "):
            data = to_bytes(case["send"], address=LANES[lane])
            answered += check(name, converse(server, data + PING), case)
    record(record_property, "C11 HTTP corpus", answered)


def check(name: str, received: bytes, case: dict[str, Any]) -> Counter[str]:
    """Exactly the case's answers, and then either the ping's or the end; returns their classes."""
    found = answers(received)
    expected = case["status"] + ([200] if case["after"] == "open" else [])
    assert [each.status for each in found] == expected, (name, received[:1000])
    for each in found:
        if each.status >= 400:
            each.error()
    if case["after"] == "open":
        assert json.loads(found[-1].body) == {"status": "Healthy"}, name
    return Counter("E" if each.status >= 400 else "R" for each in found)


def record(record_property: RecordProperty, case: str, answered: Counter[str]) -> None:
    """Tell `make faults` what was answered, right answers and clear errors."""
    record_property("case", case)
    for outcome, count in answered.items():
        record_property(outcome, count)


@pytest.mark.parametrize("to", JSON_TARGETS)
def test_json_that_readers_might_differ_on_is_refused(
    server: Server, to: str, record_property: RecordProperty
) -> None:
    answered: Counter[str] = Counter()
    listener, target = JSON_TARGETS[to]
    for name, case in JSON_BODIES.items():
        if case["to"] == to:
            body = to_bytes(case["send"])
            head = (
                f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            received = converse(server, head.encode() + body + PING, listener)
            answered += check(name, received, {"status": [case["status"]], "after": "open"})
    record(record_property, "C11 JSON corpus", answered)


@pytest.mark.parametrize("listener", ["inference", "management"])
def test_names_that_are_none_lead_nowhere(
    server: Server, listener: str, record_property: RecordProperty
) -> None:
    answered: Counter[str] = Counter()
    before = server.management.get("/models").json()
    for name, case in NAMES.items():
        if case["on"] == listener:
            head = (
                f"{case['method']} {case['target']} HTTP/1.1\r\nHost: h\r\n"
                "Content-Length: 0\r\n\r\n"
            )
            received = converse(server, head.encode() + PING, listener)
            found = answers(received)
            assert found[0].status == case["status"], (name, received[:1000])
            if case["status"] >= 400:
                found[0].error()
            answered["E" if case["status"] >= 400 else "R"] += 1
    assert server.management.get("/models").json() == before
    record(record_property, "C11 names", answered)


@pytest.mark.parametrize("name", WORST)
def test_the_worst_of_them_again_and_again_leave_no_memory_behind(
    server: Server, name: str, record_property: RecordProperty
) -> None:
    front = server.front()
    data = to_bytes(HTTP[name]["send"], address=LANES["fast"])
    repeat(server, data, times=NUM_REPEATS // 2)  # what is kept for good is kept now
    before = front.memory_info().rss
    repeat(server, data, times=NUM_REPEATS)
    growth = front.memory_info().rss - before
    record_property("case", "C11 worst")
    record_property("E", NUM_REPEATS * 3 // 2)
    record_property("max_growth_mib", growth / (1 << 20))
    assert growth <= MAX_GROWTH_BYTES * max(0.25, NUM_REPEATS / 1000), growth


def repeat(server: Server, data: bytes, *, times: int) -> None:
    def some() -> None:
        for _ in range(times // 4):
            assert converse(server, data + PING)

    for each in [server.in_thread(some) for _ in range(4)]:
        each.result()


def test_a_trailer_is_no_header_of_the_request(server: Server) -> None:
    trailer = (
        b"POST /predictions/echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n0\r\nX-Trailer: smuggled\r\n\r\n"
    )
    first, second, _ = answers(converse(server, trailer + trailer + PING))
    for each in (first, second):
        assert each.status == 200
        assert b"smuggled" not in each.body


def test_what_stands_behind_the_last_request_is_not_done(server: Server) -> None:
    """Else a request might be done that nobody gets the answer to."""
    last = b"POST /predictions/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1"
    behind = b"POST /predictions/echo/none HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    found: list[Answer] = answers(converse(server, last + b"\r\n\r\na" + behind))
    assert [each.status for each in found] == [200]
    assert not any(record.get("path") == "/predictions/echo/none" for record in server.records())
