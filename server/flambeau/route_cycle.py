"""uvicorn's request-response cycle for what goes to the application, with an end that we decide."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent, HTTPScope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from flambeau.api.turn import MAX_UNREAD_BYTES
from flambeau.errors import FlambeauError


class RouteCycle(RequestResponseCycle):
    """One request and its response.

    Attributes:
        closes: Whether the connection ends with the response; known once that has begun.
        failure: Why the rest of the request cannot be had; None as long as it may come.
    """

    closes = False
    failure: FlambeauError | None = None

    def refuse(self, error: FlambeauError) -> None:
        """The rest of the request cannot be had: whoever reads it gets the error."""
        self.failure = error
        self.keep_alive = False
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """The next part of the body, or the client's leaving.

        Raises:
            FlambeauError: The rest cannot be had.
        """
        message = await super().receive()
        if self.failure is not None and message["type"] == "http.request":
            raise self.failure
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the response."""
        if message["type"] != "http.response.start" or self.response_started:
            await super().send(message)
            return
        if self.more_body:
            await self._read_past()
            self.keep_alive = self.keep_alive and not self.more_body
        await super().send(message)
        # the connection ends with `on_response`, which knows what else there is to do
        self.closes, self.keep_alive = not self.keep_alive, True

    async def _read_past(self) -> None:
        """Get the rest of a short body that nobody reads out of the way."""
        if self.waiting_for_100_continue or self._announced() > MAX_UNREAD_BYTES:
            return
        self.flow.resume_reading()
        while self.more_body and len(self.body) <= MAX_UNREAD_BYTES:
            if self.failure is not None or self.disconnected:
                return
            self.message_event.clear()
            await self.message_event.wait()

    def _announced(self) -> int:
        """The body's length, as far as the client says it."""
        headers = self.scope["headers"]
        return next((int(value) for name, value in headers if name == b"content-length"), 0)


def scope_of(target: bytes, **known: Any) -> HTTPScope:  # noqa: ANN401  # what uvicorn has
    """What applications get to know of a request.

    Args:
        target: As it stands in the request line.
        known: What else there is in it.

    Raises:
        httptools.HttpParserInvalidURLError: The target is none.
    """
    url = httptools.parse_url(target)
    raw_path: bytes = url.path or b"/"
    path = raw_path.decode("ascii")
    scope: HTTPScope = {  # type: ignore[typeddict-item]  # `known` has the rest
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": url.query or b"",
        "state": {},
    }
    scope.update(known)  # type: ignore[typeddict-item]  # as above
    return scope
