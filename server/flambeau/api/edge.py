"""What surrounds every request: its id, the common headers, counting, and the access log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flambeau.api.responses import error_response
from flambeau.errors import BadParameter
from flambeau.metrics import Metrics

_access = logging.getLogger("flambeau.access")

# TorchServe sends these with every response
_COMMON_HEADERS = [
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
]
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")  # RFC 9110, section 7.2
_PROBES = {"/ping", "/livez", "/readyz", "/metrics"}  # asked every few seconds, for ever


class Edge:
    """Pure ASGI middleware around one listener's application.

    Puts `request_id` into the scope's state, where routes and logs find it.
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
        self._app = app
        self._listener = listener
        self._metrics = metrics
        self._access_log = access_log
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.monotonic()
        request_id = str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]} if self._headers else ()
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *_COMMON_HEADERS,
                    *(pair for pair in self._headers if pair[0] not in present),
                ]
            await send(message)

        try:
            if _has_one_host(scope):
                await self._app(_without_trailing_slash(scope), receive, send_with_headers)
            else:
                refusal = error_response(BadParameter("send one Host header with a host's name"))
                await refusal(scope, receive, send_with_headers)
        finally:
            self._note(scope, status, request_id, time.monotonic() - started_at)

    def _note(self, scope: Scope, status: int, request_id: str, duration_s: float) -> None:
        if status:
            self._metrics.response_sent(listener=self._listener, status=status)
        if self._access_log:
            client = scope.get("client") or ("", 0)
            quiet = scope["path"] in _PROBES and status < 500
            _access.log(
                logging.DEBUG if quiet else logging.INFO,
                "%s %s %s",
                scope["method"],
                scope["path"],
                status or "aborted",
                extra={
                    "request_id": request_id,
                    "listener": self._listener,
                    "client": client[0],
                    "client_port": client[1],
                    "method": scope["method"],
                    "path": _target(scope),
                    "http_version": scope["http_version"],
                    "status": status,
                    "duration_ms": round(duration_s * 1000, 3),
                },
            )


def _has_one_host(scope: Scope) -> bool:
    """Whether everybody who reads the request will take it to be for the same host."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return not hosts and scope["http_version"] == "1.0"
    return _HOST.fullmatch(hosts[0]) is not None


def _without_trailing_slash(scope: Scope) -> Scope:
    """The request without the slashes at the end of its path, which TorchServe ignores, too."""
    path: str = scope["path"]
    if len(path) > 1 and path[-1] == "/" and (stripped := path.rstrip("/")):
        return {**scope, "path": stripped}
    return scope


def _target(scope: Scope) -> str:
    """What the client asked for, as it was written: still encoded, so it is one word."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")
