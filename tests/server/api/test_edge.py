from __future__ import annotations

import asyncio
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
