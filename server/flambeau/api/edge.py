"""What surrounds every request: its id, the common headers, counting, and the access log."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flambeau.metrics import Metrics

_access = logging.getLogger("flambeau.access")

# TorchServe sends these with every response
_COMMON_HEADERS = [
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
]
_COMMON_LINES = b"".join(b"%b: %b\r\n" % pair for pair in _COMMON_HEADERS)
_IDS_AT_A_TIME = 256
_PROBES = {"/ping", "/livez", "/readyz", "/metrics"}  # asked every few seconds, for ever


class Edge:
    """Pure ASGI middleware around one listener's application.

    Puts `request_id` and `listener` into the scope's state, where routes and logs find them.

    Attributes:
        request_ids: Where ids come from.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        listener: str,
        metrics: Metrics,
        access_log: bool,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Surround `app`.

        Args:
            app: What answers.
            listener: The listener's name in logs and metrics.
            metrics: Where responses count.
            access_log: Whether each request is logged.
            headers: What every response carries unless it has such a header already.
        """
        self.request_ids = RequestIds()
        self._app = app
        self._listener = listener
        self._metrics = metrics
        self._access_log = access_log
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = self.surround(self._app, self.request_ids.next(), time.monotonic())
        await app(_without_trailing_slash(scope), receive, send)

    def surround(self, app: ASGIApp, request_id: str, started_at: float) -> ASGIApp:
        """`app` for one request, with what this adds to it.

        Args:
            app: What answers it.
            request_id: Its id.
            started_at: When it began, on the monotonic clock.
        """

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("state", {}).update(request_id=request_id, listener=self._listener)
            status = 0

            async def send_with_headers(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = self.complete(message["headers"], request_id)
                await send(message)

            try:
                await app(scope, receive, send_with_headers)
            finally:
                self.note(status, request_id, started_at=started_at, line=lambda: _line_of(scope))

        return answer

    def complete(
        self, headers: Iterable[tuple[bytes, bytes]], request_id: str
    ) -> list[tuple[bytes, bytes]]:
        """A response's headers, with those that every response has."""
        all_headers = [*headers, (b"x-request-id", request_id.encode()), *_COMMON_HEADERS]
        if self._headers:
            present = {name.lower() for name, _ in all_headers}
            all_headers += (pair for pair in self._headers if pair[0] not in present)
        return all_headers

    def header_lines(self, headers: Sequence[tuple[bytes, bytes]], request_id: str) -> bytes:
        """`complete`, as HTTP/1.1 writes it."""
        if self._headers:
            return lines_of(self.complete(headers, request_id))
        return b"%bx-request-id: %b\r\n%b" % (lines_of(headers), request_id.encode(), _COMMON_LINES)

    def note(
        self, status: int, request_id: str, *, started_at: float, line: Callable[[], RequestLine]
    ) -> None:
        """Count a request that is over, and log it.

        Args:
            status: Its response's; 0 if it got none.
            request_id: Its id.
            started_at: When it began, on the monotonic clock.
            line: Called for what it asked for if that is logged.
        """
        if status:
            self._metrics.response_sent(listener=self._listener, status=status)
        if self._access_log:
            self._log(line(), status, request_id, time.monotonic() - started_at)

    def _log(self, line: RequestLine, status: int, request_id: str, duration_s: float) -> None:
        client = line.client or ("", 0)
        quiet = line.path in _PROBES and status < 500
        _access.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %s",
            line.method,
            line.path,
            status or "aborted",
            extra={
                "request_id": request_id,
                "listener": self._listener,
                "client": client[0],
                "client_port": client[1],
                "method": line.method,
                "path": line.target,
                "http_version": line.http_version,
                "status": status,
                "duration_ms": round(duration_s * 1000, 3),
            },
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLine:
    """What a request asked for, as logs show it.

    Attributes:
        method: In capitals.
        path: Decoded.
        target: What stood there, path and query, still encoded.
        http_version: E.g. `1.1`.
        client: Its address and port, where there are such.
    """

    method: str
    path: str
    target: str
    http_version: str
    client: tuple[str, int] | None


class RequestIds:
    """Random UUIDs; the kernel is asked for many at a time, which is most of their price."""

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def next(self) -> str:
        """Another one, of version 4."""
        if self._at == len(self._digits):
            self._digits, self._at = os.urandom(16 * _IDS_AT_A_TIME).hex(), 0
        digits = self._digits[self._at : self._at + 32]
        self._at += 32
        # RFC 9562: four bits are the version, two the variant
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as HTTP/1.1 writes them."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def _without_trailing_slash(scope: Scope) -> Scope:
    """The request without the slashes at the end of its path, which TorchServe ignores, too."""
    path: str = scope["path"]
    if len(path) > 1 and path[-1] == "/" and (stripped := path.rstrip("/")):
        return {**scope, "path": stripped}
    return scope


def _line_of(scope: Scope) -> RequestLine:
    return RequestLine(
        method=scope["method"],
        path=scope["path"],
        target=_target(scope),
        http_version=scope["http_version"],
        client=scope.get("client"),
    )


def _target(scope: Scope) -> str:
    """What the client asked for, as it was written: still encoded, so it is one word."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")
