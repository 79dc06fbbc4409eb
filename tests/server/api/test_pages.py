from __future__ import annotations

import pytest
from fastapi import Request

from flambeau.api.pages import page_check
from flambeau.errors import ForeignPage


def request(origin: str | None, *, host: str = "127.0.0.1:8081", method: str = "POST") -> Request:
    headers = [(b"host", host.encode())]
    headers += [] if origin is None else [(b"origin", origin.encode())]
    return Request({"type": "http", "method": method, "headers": headers})


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "models.example"),
        ("http://127.0.0.1:8081", "127.0.0.1:8081"),
        ("http://localhost:8081", "localhost:8081"),
        ("http://[::1]:8081", "[::1]:8081"),
    ],
)
def test_programs_and_pages_from_here_may_change_things(origin: str | None, host: str) -> None:
    page_check("")(request(origin, host=host))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://example.org", "127.0.0.1:8081"),
        ("http://127.0.0.1:8000", "127.0.0.1:8081"),
        ("http://rebound.example:8081", "rebound.example:8081"),  # its name leads here now
        ("http://localhost.example:8081", "localhost.example:8081"),
        ("null", "127.0.0.1:8081"),
        ("", "127.0.0.1:8081"),
        ("http://[", "127.0.0.1:8081"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_pages_may_not(origin: str, host: str, method: str) -> None:
    with pytest.raises(ForeignPage, match="must not change what is served"):
        page_check("https://allowed.example")(request(origin, host=host, method=method))


def test_an_origin_that_is_allowed_may() -> None:
    page_check("https://example.org")(request("https://example.org"))
    page_check("*")(request("https://example.org"))


def test_pages_may_look() -> None:
    page_check("")(request("https://example.org", method="GET"))
