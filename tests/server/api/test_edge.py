from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from flambeau.api.edge import Edge
from flambeau.metrics import Metrics

Headers = Sequence[tuple[bytes, bytes]]
ONE_HOST = [(b"host", b"127.0.0.1:8080")]


async def show_path(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(scope["path"])(scope, receive, send)


def ask(
    path: str = "/ping",
    headers: Headers = ONE_HOST,
    *,
    version: str = "1.1",
    added: Sequence[tuple[str, str]] = (),
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one request to an application that answers with its path."""
    edge = Edge(show_path, listener="x", metrics=Metrics(), access_log=False, headers=added)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": list(headers),
        "http_version": version,
    }
    asyncio.run(edge(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent).decode()


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/models/", "/models"),
        ("/models///", "/models"),
        ("/models", "/models"),
        ("/", "/"),
        ("//", "//"),
        ("//models//a", "//models//a"),
    ],
)
def test_slashes_at_the_end_do_not_count(path: str, seen: str) -> None:
    assert ask(path)[2] == seen


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"127.0.0.1:8080", b"[::1]:8080", b"a_b.example", b"", b"xn--bcher-kva.example"],
)
def test_a_host_is_a_name_with_or_without_a_port(host: bytes) -> None:
    assert ask(headers=[(b"host", host)])[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [*ONE_HOST, *ONE_HOST],
        [(b"host", b"a/ping?")],
        [(b"host", b"a?b")],
        [(b"host", b"a#b")],
        [(b"host", b"user@a")],
        [(b"host", b"a b")],
        [(b"host", b"a,\xe9")],
        [(b"host", b"a\\b")],
    ],
)
def test_no_host_or_an_odd_one_or_two_are_refused(headers: Headers) -> None:
    status, found, body = ask(headers=headers)
    assert status == 400
    assert found["content-type"] == "application/json"
    assert "x-request-id" in found
    assert json.loads(body)["message"] == "send one Host header with a host's name"


def test_the_oldest_protocol_needs_no_host() -> None:
    assert ask(headers=[], version="1.0")[0] == 200
    assert ask(headers=[*ONE_HOST, *ONE_HOST], version="1.0")[0] == 400


def test_every_answer_says_that_it_must_not_be_kept() -> None:
    _, found, _ = ask()
    assert found["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert (found["pragma"], found["expires"]) == ("no-cache", "Thu, 01 Jan 1970 00:00:00 UTC")
    assert len(found["x-request-id"]) == 36


def test_configured_headers_are_added_unless_the_answer_has_them() -> None:
    added = [("Access-Control-Allow-Origin", "*"), ("Content-Type", "text/other")]
    _, found, _ = ask(added=added)
    assert found["access-control-allow-origin"] == "*"
    assert found["content-type"].startswith("text/plain")
