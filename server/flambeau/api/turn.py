"""One request on a connection: it has its turn once those before it are answered.

A connection tells a turn what arrives, and a turn tells the connection what to send. `Exchange` is
a prediction, `Refusal` what cannot be read at all, `Goodbye` what has not come; all other requests
are uvicorn's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from starlette.types import ASGIApp

from flambeau.api.edge import Edge, RequestLine
from flambeau.api.responses import answer_error
from flambeau.errors import FlambeauError

MAX_UNREAD_BYTES: Final = 64 << 10
"""A refused request's body is read past up to this, so that the connection can go on; with a longer
one, it ends."""


class Connection(Protocol):
    """What a turn needs of the connection it came over."""

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the other end, where there are such."""
        ...

    def continue_(self) -> None:
        """Tell the client to send the body it has announced."""
        ...

    def respond(self, turn: Turn, status: int, headers: bytes, body: bytes | memoryview) -> None:
        """Send a whole response; `headers` are lines."""
        ...

    def run(self, turn: Turn, app: ASGIApp) -> None:
        """Let an application answer, e.g. with a body in parts."""
        ...


class Turn:
    """A request and its response; every method may be left as it is.

    Attributes:
        keep_alive: Whether the connection may serve another request after it.
        says_close: Whether the response's own headers say that it may not.
        response_complete: Whether the response has been sent.
    """

    __slots__ = ("keep_alive", "response_complete", "says_close")

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.says_close = False
        self.response_complete = False

    def begin(self) -> None:
        """Those before it are answered."""

    def body_received(self, chunk: bytes) -> None:
        """Take a part of the body."""

    def body_complete(self) -> None:
        """The request is whole."""

    def wait_for_body(self) -> None:
        """What the client has sent so far has been read, and the body is not all there."""

    def refuse(self, error: FlambeauError) -> None:
        """The rest of it cannot be had."""

    def disconnected(self) -> None:
        """Nobody waits for the response any more."""

    def note(self, status: int) -> None:
        """Count and log the request, which is over."""


class Refusal(Turn):
    """The answer to what is not, or not yet, a request; the last one on its connection."""

    __slots__ = ("_connection", "_edge", "_error", "_line", "_request_id", "_started_at")

    def __init__(
        self,
        connection: Connection,
        edge: Edge,
        error: Exception,
        *,
        line: Callable[[], RequestLine],
    ) -> None:
        """Refuse a request.

        Args:
            connection: Where it came from.
            edge: Where it is counted and logged.
            error: What is wrong with it.
            line: Called for what is known of what it asks for, if that is logged.
        """
        super().__init__(keep_alive=False)
        self._connection = connection
        self._edge = edge
        self._error = error
        self._line = line
        self._request_id = edge.request_ids.next()
        self._started_at = time.monotonic()

    def begin(self) -> None:
        response = answer_error(self._error, request_id=self._request_id, path=self._line().path)
        self.says_close = (b"connection", b"close") in response.raw_headers
        lines = self._edge.header_lines(response.raw_headers, self._request_id)
        self._connection.respond(self, response.status_code, lines, bytes(response.body))

    def note(self, status: int) -> None:
        self._edge.note(status, self._request_id, started_at=self._started_at, line=self._line)


class Goodbye(Refusal):
    """The answer to a request that may be on its way; nobody's, as far as anybody knows."""

    __slots__ = ()

    def note(self, status: int) -> None:
        """There is nothing to count."""
