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
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import ASGIApp

from flambeau.admission import outcome_of
from flambeau.api.auth import Guard
from flambeau.api.body import split_inputs
from flambeau.api.edge import Edge, RequestLine, new_request_id, require_one_host
from flambeau.api.prediction import Call, Predictions, find_call
from flambeau.api.reply import StreamedResponse, headers_of, to_response
from flambeau.api.responses import answer_error
from flambeau.errors import FlambeauError
from flambeau.messages import Reply
from flambeau.model_version import ModelVersion
from flambeau.pending import PendingRequest
from flambeau.tokens import Role

Headers = list[tuple[bytes, bytes]]

_MAX_KNOWN_TARGETS: Final = 1024
_CLIENT_GONE: Final = 499  # nobody reads it; the log and metrics do
_WITHOUT_BODY: Final = {204, 304}


class Connection(Protocol):
    """What an exchange needs of the connection it came over."""

    def continue_(self) -> None:
        """Tell the client to send the body it has announced."""
        ...

    def respond(
        self, exchange: Exchange, status: int, headers: Headers, body: bytes | memoryview
    ) -> None:
        """Send a whole response."""
        ...

    def run(self, exchange: Exchange, app: ASGIApp) -> None:
        """Let an application answer, e.g. with a body in parts."""
        ...


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


class Exchange:
    """One request and its response.

    Attributes:
        target, http_version, client: What logs show.
        headers: The request's, names in lower case.
        keep_alive: Whether the connection may serve another request after it.
        response_complete: Whether the response has been sent.
    """

    def __init__(
        self,
        lane: FastLane,
        connection: Connection,
        call: Call,
        *,
        target: bytes,
        headers: Headers,
        http_version: str,
        client: tuple[str, int] | None,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        # for the life of the request
        self.target = target
        self.headers = headers
        self.http_version = http_version
        self.client = client
        self.keep_alive = keep_alive
        self.response_complete = False
        self.request_id = ""
        self.started_at = 0.0
        self._lane = lane
        self._connection = connection
        self._call = call
        self._expects_continue = expects_continue
        # as the body comes
        self._chunks: list[bytes] = []
        self._num_bytes = 0
        self._has_body = False
        self._has_begun = False
        # once it is a model's
        self._pending: PendingRequest | None = None
        self._version: ModelVersion | None = None
        self._submitted_at = 0.0

    @property
    def path(self) -> str:
        """Decoded; it has no escapes."""
        return self.target.partition(b"?")[0].decode("ascii")

    # what the connection tells

    def begin(self) -> None:
        """It is this request's turn: ask everything that can be asked before its body."""
        self._has_begun = True
        self.request_id = new_request_id()
        self.started_at = time.monotonic()
        lane = self._lane
        try:
            require_one_host(self.headers, http_version=self.http_version)
            self.headers = lane.guard.admit(self.headers, Role.INFERENCE)
            lane.predictions.registry.resolve(self._call.model, self._call.version)
            lane.predictions.body_limit.check_announced(self._header(b"content-length"))
            lane.predictions.body_limit.check_received(self._num_bytes)
        except Exception as error:  # noqa: BLE001  # every error is an answer
            self._fail(error)
            return
        if self._expects_continue:
            self._connection.continue_()
        if self._has_body:
            self._submit()

    def body_received(self, chunk: bytes) -> None:
        """Take a part of the body."""
        if self.response_complete:
            return
        self._chunks.append(chunk)
        self._num_bytes += len(chunk)
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
        if self._has_begun:
            self._submit()

    def disconnected(self) -> None:
        """Nobody waits for the response any more."""
        if self.response_complete or not self._has_begun:
            return
        self.response_complete = True
        if self._pending is not None and not self._pending.is_over:
            self._pending.abandon()
            self._count("cancelled")
        self.note(_CLIENT_GONE)

    # from the body to the answer

    def _submit(self) -> None:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        try:
            inputs = split_inputs(body, content_type=self._header(b"content-type") or None)
            self._version, request = self._lane.predictions.prepare(
                self._call, request_id=self.request_id, headers=self.headers, inputs=inputs
            )
        except Exception as error:  # noqa: BLE001  # as above
            self._fail(error)
            return
        self._submitted_at = time.monotonic()
        try:
            self._pending = self._version.submit(
                request,
                version_given=self._call.version is not None,
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
            length = str(len(reply.body)).encode()
            self._respond(reply.status, [(b"content-length", length), *headers], reply.body)

    def _fail(self, error: Exception) -> None:
        response = answer_error(error, request_id=self.request_id, path=self.path)
        self._respond(response.status_code, response.raw_headers, bytes(response.body))

    def _respond(self, status: int, headers: Headers, body: bytes | memoryview) -> None:
        complete = self._lane.edge.complete(headers, self.request_id)
        self._connection.respond(self, status, complete, body)

    def _run(self, response: Response) -> None:
        self._connection.run(
            self, self._lane.edge.surround(response, self.request_id, self.started_at)
        )

    def note(self, status: int) -> None:
        """Count and log the request, which is over; an application run for it does so itself."""
        self._lane.edge.note(status, self.request_id, started_at=self.started_at, line=self._line)

    def _line(self) -> RequestLine:
        return RequestLine(
            method="POST",
            path=self.path,
            target=self.target.decode("latin-1"),
            http_version=self.http_version,
            client=self.client,
        )

    def _count(self, outcome: str) -> None:
        assert self._version is not None
        self._version.metrics.request_done(
            outcome=outcome,
            duration_s=time.monotonic() - self._submitted_at,
            version_given=self._call.version is not None,
        )

    def _header(self, name: bytes) -> str:
        """The first value; empty without one."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return ""


def _reply_of(pending: PendingRequest) -> Reply:
    match pending.result:
        case Reply() as reply:
            return reply
        case FlambeauError() as error:
            raise error
        case None:
            raise asyncio.InvalidStateError("no result yet")
