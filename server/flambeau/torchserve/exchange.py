"""One request and its answer, as data: what a comparison records, sends again and looks at.

    write_exchanges(path, exchanges)        exchanges = read_exchanges(path)

In a file, an exchange is one line of JSON. Bodies are text where they are UTF-8 and base64 where
they are not. A request may hold tags like `<<management_key>>`, filled in when it is sent.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from flambeau.errors import ConfigError
from flambeau.torchserve.launch import Port

Headers: TypeAlias = tuple[tuple[str, str], ...]

NO_ANSWER: Final = 0  # the status of a connection that was closed without an answer
_TAG: Final = re.compile(r"<<(\w+)>>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request to one of a server's listeners.

    Attributes:
        name: Its name, unique in a file.
        port: Which listener.
        method: The HTTP method.
        target: The path with its query, as sent.
        headers: Sent besides Host and Content-Length.
        body: None for a request without a body.
        together: Neighbours with the same word here are sent at the same time.
        until: Send it again until the answer has this status; None to send it once.
        until_text: The same for a text that the body must hold.
        view: What to compare of the body: all, or `openapi`, `metrics`, `outline`,
            `status`.
    """

    name: str
    port: Port
    method: str
    target: str
    headers: Headers = ()
    body: bytes | None = None
    together: str | None = None
    until: int | None = None
    until_text: str | None = None
    view: str | None = None

    def filled(self, values: Mapping[str, str]) -> Request:
        """With tags replaced by values.

        Raises:
            ConfigError: A tag has no value.
        """
        return replace(
            self,
            target=_fill(self.target, values),
            headers=tuple((name, _fill(value, values)) for name, value in self.headers),
            body=None if self.body is None else _fill_bytes(self.body, values),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status; `NO_ANSWER` when the connection was closed before one came.
        reason: The words after it.
        headers: In the order and spelling in which they came.
        body: The whole body, out of its chunks.
        chunks: The length of each chunk, in bytes; None for a body that was not chunked.
        cut_off: Whether the connection ended before the body did.
        duration_s: From the first byte sent to the last byte received.
    """

    status: int
    reason: str = ""
    headers: Headers = ()
    body: bytes = b""
    chunks: tuple[int, ...] | None = None
    cut_off: bool = False
    duration_s: float = 0.0

    def header(self, name: str) -> str | None:
        """A header's value, by name in any case."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(found) if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A request with its answer."""

    request: Request
    answer: Answer = field(default_factory=lambda: Answer(status=NO_ANSWER))


def read_requests(path: Path) -> list[Request]:
    """The requests of a file, in order; answers in it are ignored.

    Raises:
        ConfigError: A line is not one of ours.
    """
    return [_request(document) for document in _documents(path)]


def read_exchanges(path: Path) -> list[Exchange]:
    """The exchanges of a file, in order.

    Raises:
        ConfigError: A line is not one of ours, or has no answer.
    """
    documents = _documents(path)
    try:
        return [
            Exchange(request=_request(document), answer=_answer(document["answer"]))
            for document in documents
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds a request without a usable answer ({error})") from error


def write_exchanges(path: Path, exchanges: Iterable[Exchange]) -> None:
    """Write one line per exchange."""
    lines = [
        json.dumps(_request_document(each.request) | {"answer": _answer_document(each.answer)})
        for each in exchanges
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read requests from {path}: {error}") from error


def _request(document: Mapping[str, Any]) -> Request:
    try:
        return Request(
            name=str(document["name"]),
            port=Port(document.get("port", "inference")),
            method=str(document.get("method", "POST")),
            target=str(document["target"]),
            headers=_pairs(document.get("headers", ())),
            body=_bytes(document["body"]) if "body" in document else None,
            together=document.get("together"),
            until=document.get("until"),
            until_text=document.get("until_text"),
            view=document.get("view"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{dict(document)} is not a request ({error!r})") from error


def _answer(document: Mapping[str, Any]) -> Answer:
    chunks = document.get("chunks")
    return Answer(
        status=int(document["status"]),
        reason=str(document.get("reason", "")),
        headers=_pairs(document.get("headers", ())),
        body=_bytes(document.get("body", "")),
        chunks=None if chunks is None else tuple(int(size) for size in chunks),
        cut_off=bool(document.get("cut_off", False)),
    )


def _request_document(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": request.name,
        "port": request.port.value,
        "method": request.method,
        "target": request.target,
    }
    if request.headers:
        document["headers"] = [list(pair) for pair in request.headers]
    if request.body is not None:
        document["body"] = _text(request.body)
    for key in ("together", "until", "until_text", "view"):
        if (value := getattr(request, key)) is not None:
            document[key] = value
    return document


def _answer_document(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = {
        "status": answer.status,
        "reason": answer.reason,
        "headers": [list(pair) for pair in answer.headers],
        "body": _text(answer.body),
    }
    if answer.chunks is not None:
        document["chunks"] = list(answer.chunks)
    if answer.cut_off:
        document["cut_off"] = True
    return document


def _pairs(values: Sequence[Sequence[str]]) -> Headers:
    return tuple((str(name), str(value)) for name, value in values)


def _text(body: bytes) -> str | dict[str, str]:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _bytes(document: str | Mapping[str, str]) -> bytes:
    if isinstance(document, str):
        return document.encode()
    return base64.b64decode(document["base64"])


def _fill(text: str, values: Mapping[str, str]) -> str:
    def value_of(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ConfigError(f"a request needs a value for {found[0]}; known: {sorted(values)}")
        return values[found[1]]

    return _TAG.sub(value_of, text)


def _fill_bytes(body: bytes, values: Mapping[str, str]) -> bytes:
    if b"<<" not in body:
        return body
    return _fill(body.decode("latin-1"), values).encode("latin-1")
