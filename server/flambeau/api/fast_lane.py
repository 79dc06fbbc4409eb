"""Predictions without an ASGI task: what FastAPI's routes do, as callbacks of the connection.

A connection asks `find` whether a request goes this way, and makes an `Exchange` if so. The
questions, their order, the answers and what is counted and logged are those of the routes; the
functions that both call are in `prediction.py`, `edge.py`, `reply.py` and `responses.py`.

Left to the routes: other methods than POST, paths with escapes or a slash at the end, queries that
are inputs, upgrades.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from flambeau.admission import outcome_of
from flambeau.api.auth import HEADER, Guard
from flambeau.api.body import split_inputs
from flambeau.api.edge import Edge, RequestLine
from flambeau.api.prediction import Call, Predictions, find_call, headers_for
from flambeau.api.reply import StreamedResponse, headers_of, to_response
from flambeau.api.request_head import Headers, expects_continue
from flambeau.api.responses import answer_error
from flambeau.api.turn import MAX_UNREAD_BYTES, Connection, Turn
from flambeau.errors import FlambeauError
from flambeau.messages import Reply
from flambeau.model_version import ModelVersion
from flambeau.pending import PendingRequest
from flambeau.tokens import Role

_MAX_KNOWN_TARGETS: Final = 1024
_CLIENT_GONE: Final = 499  # nobody reads it; the log and metrics do
_WITHOUT_BODY: Final = {204, 304}


class FastLane:
    """What all exchanges of one listener share."""

    def __init__(self, predictions: Predictions, *, edge: Edge, guard: Guard) -> None:
        # for the life of the listener
        self.predictions = predictions
        self.edge = edge
        self.guard = guard
        # by the target as clients write it; None for what does not go this way
        self._known: dict[bytes, Call | None] = {}

    def find(self, target: bytes) -> Call | None:
        """What a POST to `target` asks for; None when it does not go this way."""
        try:
            return self._known[target]
        except KeyError:
            pass
        call = _find(target)
        if len(self._known) >= _MAX_KNOWN_TARGETS:
            self._known.clear()
        self._known[target] = call
        return call


def _find(target: bytes) -> Call | None:
    raw_path = target.partition(b"?")[0]
    if not raw_path.startswith(b"/") or raw_path.endswith(b"/") or not target.isascii():
        return None
    if any(mark in raw_path for mark in (b"%", b"#", b"//")):
        return None
    call = find_call(raw_path.decode("ascii"))
    return None if call is None or call.query_is_input else call


class Heading:
    """What a sound request says before its body; one serves all requests that say the same.

    Attributes:
        call: What it asks for.
        target: The path and query as the client wrote them.
        headers: Names in lower case.
        http_version: E.g. `1.1`.
        path: Decoded; it has no escapes.
        content_type: None without one.
        content_length: Empty without one.
        expects_continue: Whether the client waits to be told to send the body.
        keys: The `authorization` headers.
        for_handler: The headers as the handler gets them, without keys that somebody asks for.
        is_admitted: Whether the length it announces has been found to be within the limit.
    """

    __slots__ = (
        *("call", "target", "headers", "http_version", "path"),
        *("content_type", "content_length", "expects_continue"),
        *("keys", "for_handler", "is_admitted"),
    )

    def __init__(
        self, call: Call, target: bytes, headers: Headers, http_version: str, *, guard: Guard
    ) -> None:
        self.call = call
        self.target = target
        self.headers = headers
        self.http_version = http_version
        self.path = target.partition(b"?")[0].decode("ascii")
        self.content_type = _first(headers, b"content-type")
        self.content_length = _first(headers, b"content-length") or ""
        self.expects_continue = expects_continue(headers, http_version=http_version)
        self.keys = [value for name, value in headers if name == HEADER]
        shown = [pair for pair in headers if pair[0] != HEADER] if guard.is_on else headers
        self.for_handler = headers_for(call, shown)
        self.is_admitted = False

    def is_same(self, target: bytes, headers: Headers, http_version: str) -> bool:
        """Whether a request with these says the same."""
        return (
            headers == self.headers and target == self.target and http_version == self.http_version
        )


class Exchange(Turn):
    """One request and its response.

    Attributes:
        heading: What came before the body.
    """

    __slots__ = (
        *("heading", "_lane", "_connection", "_request_id", "_started_at"),
        *("_chunks", "_num_bytes", "_has_body", "_has_begun", "_refusal"),
        *("_pending", "_version", "_submitted_at"),
    )

    def __init__(
        self,
        lane: FastLane,
        connection: Connection,
        heading: Heading,
        *,
        keep_alive: bool,
    ) -> None:
        # for the life of the request; what `Turn` has is set here, as a call costs more
        self.keep_alive = keep_alive
        self.says_close = False
        self.response_complete = False
        self.heading = heading
        self._lane = lane
        self._connection = connection
        self._request_id = ""
        self._started_at = 0.0
        # as the body comes
        self._chunks: list[bytes] = []
        self._num_bytes = 0
        self._has_body = False
        self._has_begun = False
        self._refusal: Exception | None = None
        # once it is a model's
        self._pending: PendingRequest | None = None
        self._version: ModelVersion | None = None
        self._submitted_at = 0.0

    # what the connection tells

    def begin(self) -> None:
        """It is this request's turn: ask everything that can be asked before its body."""
        lane, heading = self._lane, self.heading
        self._has_begun = True
        self._request_id = lane.edge.request_ids.next()
        self._started_at = time.monotonic()
        if self._refusal is not None:
            self._fail(self._refusal)
            return
        try:
            lane.guard.check(heading.keys, Role.INFERENCE)
            lane.predictions.registry.resolve(heading.call.model, heading.call.version)
            if not heading.is_admitted:
                lane.predictions.body_limit.check_announced(heading.content_length)
                heading.is_admitted = True
            lane.predictions.body_limit.check_received(self._num_bytes)
        except Exception as error:  # noqa: BLE001  # every error is an answer
            self._fail_when_read(error)
            return
        if heading.expects_continue and not self._num_bytes:
            self._connection.continue_()
        if self._has_body:
            self._submit()

    def body_received(self, chunk: bytes) -> None:
        """Take a part of the body."""
        if self.response_complete:
            return
        self._num_bytes += len(chunk)
        if self._refusal is not None:
            if self._has_begun and self._num_bytes > MAX_UNREAD_BYTES:
                self._fail(self._refusal)
            return
        self._chunks.append(chunk)
        if self._has_begun:
            try:
                self._lane.predictions.body_limit.check_received(self._num_bytes)
            except FlambeauError as error:
                self._fail(error)

    def body_complete(self) -> None:
        """The request is whole."""
        if self.response_complete:
            return
        self._has_body = True
        if not self._has_begun:
            return
        if self._refusal is None:
            self._submit()
        else:
            self._fail(self._refusal)

    def wait_for_body(self) -> None:
        """What the client has sent so far has been read, and the body is not all there."""
        if self._refusal is None or not self._has_begun or self.response_complete:
            return
        length = self.heading.content_length
        is_long = length.isdigit() and int(length) > MAX_UNREAD_BYTES
        if self.heading.expects_continue or is_long:
            self._fail(self._refusal)

    def refuse(self, error: FlambeauError) -> None:
        """The rest of it cannot be had."""
        self.keep_alive = False
        if self.response_complete:
            return
        self._refusal = self._refusal or error
        if self._has_begun:
            self._fail(self._refusal)

    def disconnected(self) -> None:
        """Nobody waits for the response any more."""
        if self.response_complete or not self._has_begun:
            return
        self.response_complete = True
        if self._pending is not None and not self._pending.is_over:
            self._pending.abandon()
            self._count("cancelled")
        self.note(_CLIENT_GONE)

    def note(self, status: int) -> None:
        """Count and log the request, which is over; an application run for it does so itself."""
        self._lane.edge.note(
            status, self._request_id, started_at=self._started_at, line=self._request_line
        )

    # from the body to the answer

    def _submit(self) -> None:
        chunks, self._chunks = self._chunks, []
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        try:
            self._version, request = self._lane.predictions.prepare(
                self.heading.call,
                request_id=self._request_id,
                headers=self.heading.for_handler,
                inputs=split_inputs(body, content_type=self.heading.content_type),
            )
        except Exception as error:  # noqa: BLE001  # as above
            self._fail(error)
            return
        self._submitted_at = time.monotonic()
        try:
            self._pending = self._version.submit(
                request,
                version_given=self.heading.call.version is not None,
                on_result=self._on_result,
            )
        except Exception as error:  # noqa: BLE001  # as above
            self._count(outcome_of(error))
            self._fail(error)

    def _on_result(self, pending: PendingRequest) -> None:
        assert self._version is not None
        try:
            reply = _reply_of(pending)
            headers = headers_of(pending, reply, version=self._version)
        except Exception as error:  # noqa: BLE001  # as above
            self._count(outcome_of(error))
            self._fail(error)
            return
        self._count("ok")
        if pending.rest is not None:
            self._run(StreamedResponse(reply, headers, pending.rest))
        elif reply.status in _WITHOUT_BODY:
            self._run(to_response(reply, headers))
        else:
            length = (b"content-length", b"%d" % len(reply.body))
            self._respond(reply.status, [length, *headers], reply.body)

    def _fail_when_read(self, error: Exception) -> None:
        """Fail once the body is out of the way, if that is short; else the connection ends."""
        if self._has_body:
            self._fail(error)
        else:
            self._refusal, self._chunks = error, []

    def _fail(self, error: Exception) -> None:
        if not self._has_body:
            self.keep_alive = False
        response = answer_error(error, request_id=self._request_id, path=self.heading.path)
        self.says_close = (b"connection", b"close") in response.raw_headers
        self.keep_alive = self.keep_alive and not self.says_close
        self._respond(response.status_code, response.raw_headers, bytes(response.body))

    def _respond(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes | memoryview
    ) -> None:
        lines = self._lane.edge.header_lines(headers, self._request_id)
        self._connection.respond(self, status, lines, body)

    def _run(self, response: Response) -> None:
        app = self._lane.edge.surround(response, self._request_id, self._started_at)
        self._connection.run(self, app)

    def _request_line(self) -> RequestLine:
        return RequestLine(
            method="POST",
            path=self.heading.path,
            target=self.heading.target.decode("latin-1"),
            http_version=self.heading.http_version,
            client=self._connection.client,
        )

    def _count(self, outcome: str) -> None:
        assert self._version is not None
        self._version.metrics.request_done(
            outcome=outcome,
            duration_s=time.monotonic() - self._submitted_at,
            version_given=self.heading.call.version is not None,
        )


def _first(headers: Headers, name: bytes) -> str | None:
    """The first value of a header."""
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


def _reply_of(pending: PendingRequest) -> Reply:
    match pending.result:
        case Reply() as reply:
            return reply
        case FlambeauError() as error:
            raise error
        case None:
            raise asyncio.InvalidStateError("no result yet")
