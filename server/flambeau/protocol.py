"""One HTTP connection: uvicorn's protocol, with limits, and a lane of its own for predictions.

A request that the fast lane knows becomes an `Exchange`, all others go to the application in a
`RouteCycle`, and what is no request in a `Refusal`; each waits for its turn in the pipeline. What
`request_head.py` and `watch.py` refuse or end is the same for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import httptools
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from flambeau.api.edge import Edge, RequestLine, lines_of
from flambeau.api.fast_lane import Exchange, FastLane, Heading
from flambeau.api.request_head import (
    MAX_CHUNK_EXTRA_BYTES,
    MAX_CHUNKS,
    MAX_HEAD_BYTES,
    check_head,
    check_known_host,
    head_too_large,
)
from flambeau.api.turn import Goodbye, Refusal, Turn
from flambeau.connections import Connections
from flambeau.errors import (
    FlambeauError,
    MalformedRequest,
    RequestTimedOut,
    TooManyConnections,
)
from flambeau.route_cycle import RouteCycle, scope_of
from flambeau.socket_state import is_reset, unsent_bytes
from flambeau.tls import client_name
from flambeau.watch import Patience, Stage, Watch

_log = logging.getLogger(__name__)

Cycle: TypeAlias = Turn | RouteCycle

_END_OF_HEAD: Final = b"\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_SMALL_BYTES: Final = 64 * 1024  # bodies up to this are copied to go out with their headers
_NOTHING: Final = Stage.NOTHING  # found faster than in its enumeration
_MAX_UPGRADES: Final = 8  # clients that ask for HTTP/2 do so once
_FIRST_LOOK_S: Final = 0.05
_LAST_LOOK_S: Final = 1.0


class _NothingMore(Exception):  # noqa: N818  # it is no error
    """The connection ends with the requests it has brought."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a listener allows its clients.

    Attributes:
        patience: How long they may take.
        connections: How many they may be.
        host_names: What they may call the server, in lower case; none for any name.
    """

    patience: Patience
    connections: Connections
    host_names: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Again:
    """A request that came in one read, and that the next may well repeat but for its body.

    Attributes:
        head: Its bytes before the body.
        num_bytes: How many it had with the body.
        heading: What the head says.
    """

    head: bytes
    num_bytes: int
    heading: Heading


class Protocol(HttpToolsProtocol):
    """A connection of a listener; its server makes one for each client."""

    # uvicorn asks turns only what they have: response_complete and keep_alive
    cycle: Any
    pipeline: deque[Any]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        edge: Edge,
        lane: FastLane | None,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # for the life of the connection
        self._edge = edge
        self._lane = lane
        self._limits = limits
        self._is_counted = False
        self._extensions: dict[str, dict[str, str]] = {}
        self._watch: Watch | None = None
        # the request whose turn it is; those behind it are in the pipeline, the newest first
        self._current: Cycle | None = None
        # the last prediction's, as most clients send the same headers each time
        self._heading: Heading | None = None
        self._again: _Again | None = None
        # of the request that arrives
        self._num_messages = 0
        self._is_arriving = False
        self._is_head = False
        self._is_upgrade = False
        self._num_upgrades = 0
        self._num_chunks = 0
        self._num_body_bytes = 0
        self._num_bytes = 0  # in reads of its own, besides what the first brought of the body
        # its end: the next request is the last; the last one is known; nothing that comes is read;
        # the client sends no more
        self._is_draining = limits.connections.are_draining
        self._is_last = False
        self._is_deaf = False
        self._is_half_closed = False
        self._has_probed = False

    # what the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if name := client_name(transport):
            self._extensions = {"tls": {"client_cert_name": name}}
        self._watch = Watch(self.loop, self._limits.patience, transport, on_late=self._on_late)
        try:
            self._limits.connections.enter()
            self._is_counted = True
        except TooManyConnections as error:
            self._refuse(error)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        again = self._again
        if (
            again is not None
            and len(data) == again.num_bytes
            and data.startswith(again.head)
            and not self._is_arriving
            and not self._is_last
        ):
            self._received_again(again, data[len(again.head) :])
            return
        num_messages, was_arriving = self._num_messages, self._is_arriving
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._on_parser_error(error)
        else:
            if self._is_arriving and not self._is_deaf:
                self._expect_more(len(data) if num_messages == self._num_messages else 0)
            elif num_messages + 1 == self._num_messages and not was_arriving:
                self._remember(data)

    def _remember(self, data: bytes) -> None:
        """Recognise the request that just came whole, if it comes again."""
        turn, size = self.cycle, self._num_body_bytes
        if not isinstance(turn, Exchange) or self._num_chunks or not size or not turn.keep_alive:
            return
        head = data[: data.find(_END_OF_HEAD) + len(_END_OF_HEAD)]
        if len(head) + size == len(data) and not turn.heading.expects_continue:
            self._again = _Again(head=head, num_bytes=len(data), heading=turn.heading)

    def _received_again(self, again: _Again, body: bytes) -> None:
        """Equal bytes mean equal requests: the parser need not read the same head once more."""
        assert self._lane is not None
        assert self._watch is not None
        self._num_messages += 1
        self._num_chunks, self._num_body_bytes = 0, len(body)
        self._watch.stage = Stage.NOTHING
        exchange = Exchange(self._lane, self, again.heading, keep_alive=True)
        self._take_turn(exchange)
        exchange.body_received(body)
        exchange.body_complete()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always says no
        """The client sends no more; it may still read the answers to what it has sent."""
        if self.scheme == "https":
            return False
        if self._is_arriving and not (self._is_head or self._is_deaf):
            if not self.pipeline:
                return False
            self.pipeline.popleft()  # the newest one, which will never be whole
        if self._current is None and not self.pipeline:
            return False
        self._is_deaf = self._is_half_closed = True
        self._is_arriving = False
        self._close_after_newest()
        self._look_for_reset()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self._watch is not None
        self._watch.unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        assert self._watch is not None
        self._watch.read()

    # what the listener tells

    def drain(self) -> None:
        """Let the newest request be the last, or the next one if there is none."""
        self._is_draining = True
        self._again = None
        self._is_last |= self._close_after_newest()

    def shutdown(self) -> None:
        """Hang up once the requests that are there are answered; again and again, if you like."""
        self.drain()
        is_idle = self._current is None and not self.pipeline
        if is_idle and not self._is_deaf and not self.transport.is_closing():
            self._say_goodbye()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.stop()
        if self._is_counted:
            self._limits.connections.leave()
        self.pipeline.clear()
        current, self._current = self._current, None
        if isinstance(current, Turn):
            current.disconnected()
        elif current is not None and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        if isinstance(self.cycle, Turn):
            self.cycle = None
        super().connection_lost(exc)

    # what the parser tells

    def on_message_begin(self) -> None:
        if self._is_last:
            raise _NothingMore
        self.url = b""
        self.headers = []
        self._num_messages += 1
        self._is_arriving = self._is_head = True
        self._num_chunks = self._num_body_bytes = 0
        assert self._watch is not None
        self._watch.stage = _NOTHING

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_head:  # else it trails the body, and nobody has asked for it
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self.parser
        method = parser.get_method()
        is_tunnel = False
        if parser.should_upgrade():
            is_tunnel = method == b"CONNECT"
            if not is_tunnel:
                self._is_upgrade = True
                return
        http_version = parser.get_http_version()
        heading = self._heading
        if heading is None or not heading.is_same(self.url, self.headers, http_version):
            check_head(self.url, self.headers, http_version=http_version)
            check_known_host(self.headers, self._limits.host_names)
            heading = None
        keep_alive = http_version != "1.0" and parser.should_keep_alive() and not is_tunnel
        keep_alive = keep_alive and not self._is_draining
        self._is_last = not keep_alive
        if self._lane is not None and method == b"POST":
            if heading is None:
                heading = self._new_heading(self._lane, http_version)
            if heading is not None:
                self._is_head = False
                self._take_turn(Exchange(self._lane, self, heading, keep_alive=keep_alive))
                return
        cycle = self._route_cycle(http_version, keep_alive=keep_alive)
        self._is_head = False
        self._take_turn(cycle)

    def on_chunk_header(self) -> None:
        self._num_chunks += 1
        if self._num_chunks > MAX_CHUNKS:
            raise MalformedRequest(f"the body has more than {MAX_CHUNKS} chunks; send larger ones")

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        if isinstance(self.cycle, Turn):
            self.cycle.body_received(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        self._is_arriving = False
        if isinstance(self.cycle, Turn):
            self.cycle.body_complete()
        else:
            super().on_message_complete()

    def _new_heading(self, lane: FastLane, http_version: str) -> Heading | None:
        """What the fast lane remembers of this request; None if that does not take it."""
        call = lane.find(self.url)
        if call is None:
            return None
        self._heading = Heading(call, self.url, self.headers, http_version, guard=lane.guard)
        return self._heading

    def _route_cycle(self, http_version: str, *, keep_alive: bool) -> RouteCycle:
        try:
            scope = scope_of(
                self.url,
                http_version=http_version,
                method=self.parser.get_method().decode("ascii"),
                headers=self.headers,
                **self._ends(),
            )
        except httptools.HttpParserInvalidURLError as error:
            raise MalformedRequest("the address is none; use a path, like /ping") from error
        waits = http_version == "1.1" and any(name == b"expect" for name, _ in self.headers)
        return self._cycle_for(scope, keep_alive=keep_alive, expect_100_continue=waits)

    def _cycle_for(self, scope: Any, **state: bool) -> RouteCycle:  # noqa: ANN401  # uvicorn's
        return RouteCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self.on_response_complete,
            **state,
        )

    def _ends(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": self.root_path,
            "extensions": self._extensions,
        }

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Nothing is upgraded here, so the request goes on as if it had not asked for it."""
        if not self._is_upgrade:  # for a tunnel, which nobody will use
            self._is_deaf = True
            return
        self._is_upgrade = False
        self._num_upgrades += 1
        if self._num_upgrades > _MAX_UPGRADES:
            self._refuse(MalformedRequest("nothing is upgraded here; do not ask again and again"))
            return
        kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(
            b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self.url, version, lines_of(kept), rest)
        )

    # limits

    def _expect_more(self, num_bytes: int) -> None:
        """A request is not whole yet.

        Args:
            num_bytes: How much has come of it; 0 if other requests' bytes were among it.
        """
        self._num_bytes = self._num_bytes + num_bytes if num_bytes else self._num_body_bytes
        allowed = MAX_HEAD_BYTES + self._num_chunks * MAX_CHUNK_EXTRA_BYTES
        if self._num_bytes - self._num_body_bytes > allowed:
            self._refuse(head_too_large())
            return
        assert self._watch is not None
        if self._is_head:
            self._watch.arriving(Stage.HEAD)
        else:
            self._watch.arriving(Stage.BODY, num_bytes=self._num_body_bytes)
            if isinstance(self.cycle, Turn):
                self.cycle.wait_for_body()

    def _on_late(self, stage: Stage) -> None:
        patience = self._limits.patience
        assert self._watch is not None
        match stage:
            case Stage.HEAD | Stage.BODY if self.flow.read_paused:
                self._watch.arriving(stage)  # it is us who do not read
            case Stage.HEAD:
                self._refuse(
                    RequestTimedOut(
                        f"the headers have not come within header_timeout_s {patience.header_s:g}"
                    )
                )
            case Stage.BODY:
                self._refuse(
                    RequestTimedOut(
                        f"the body has not come within body_timeout_s {patience.body_s:g}"
                    )
                )
            case Stage.GOODBYE if unsent_bytes(self.transport):
                self._watch.arriving(Stage.END)
            case Stage.GOODBYE | Stage.END:
                self._close()
            case _:
                self._end()

    def _on_parser_error(self, error: httptools.HttpParserError) -> None:
        if self._is_deaf or (self._is_last and not self._is_arriving):
            self._is_deaf = True  # whatever stands behind the last request
            return
        match error.__context__:
            case FlambeauError() as refusal:
                self._refuse(refusal)
            case Exception() as mistake:
                _log.error("a request ended its connection", exc_info=mistake)
                self.transport.abort()
            case _:
                self._refuse(MalformedRequest(f"this is no HTTP request: {error}"))

    def _refuse(self, error: FlambeauError) -> None:
        """Answer what has come, this request with `error`, and nothing that comes from now on."""
        self._is_deaf = self._is_last = True
        has_turn = self._is_arriving and not self._is_head
        if not has_turn or self.cycle is None:
            self._take_turn(Refusal(self, self._edge, error, line=self._known_line))
        elif self.cycle.response_complete:
            self._end()
        else:
            self.cycle.refuse(error)

    def _known_line(self) -> RequestLine:
        """What is known of a request that cannot be read."""
        parser = self.parser
        is_known = self._is_arriving and bool(self.url)
        method = parser.get_method().decode("latin-1") if is_known else "-"
        target = self.url.decode("latin-1") if is_known else "-"
        return RequestLine(
            method=method,
            path=target.partition("?")[0],
            target=target,
            http_version="",
            client=self.client,
        )

    # what turns want

    def continue_(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_CONTINUE)

    def respond(self, turn: Turn, status: int, headers: bytes, body: bytes | memoryview) -> None:
        if self.flow.write_paused:  # the client reads slowly: nothing more until it has caught up
            self._later(self._respond_when_read(turn, status, headers, body))
            return
        head = b"%b%b%b%b" % (
            STATUS_LINE[status],
            lines_of(self.server_state.default_headers),
            headers,
            b"\r\n" if turn.keep_alive or turn.says_close else b"connection: close\r\n\r\n",
        )
        turn.response_complete = True
        if len(body) <= _SMALL_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        turn.note(status)
        self.on_response_complete()

    def run(self, turn: Turn, app: ASGIApp) -> None:
        turn.response_complete = True  # from here on, the cycle's is what counts
        assert isinstance(turn, Exchange)
        heading = turn.heading
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": heading.http_version,
            "method": "POST",
            "path": heading.path,
            "raw_path": heading.path.encode(),
            "query_string": heading.target.partition(b"?")[2],
            "headers": heading.headers,
            "state": {},
            **self._ends(),
        }
        cycle = self._cycle_for(scope, keep_alive=turn.keep_alive, expect_100_continue=False)
        cycle.more_body = False
        if self.cycle is turn:
            self.cycle = cycle
        self._begin(cycle, app)

    async def _respond_when_read(
        self, turn: Turn, status: int, headers: bytes, body: bytes | memoryview
    ) -> None:
        await self.flow.drain()
        if not turn.response_complete:  # else the client has left
            self.respond(turn, status, headers, body)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    # turns

    def _take_turn(self, cycle: Cycle) -> None:
        before: Cycle | None = self.cycle
        self.cycle = cycle
        if before is None or (before.response_complete and not self.pipeline):
            self._begin(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft(cycle)

    def _begin(self, cycle: Cycle, app: Any) -> None:  # noqa: ANN401  # a turn has no app
        self._current = cycle
        if isinstance(cycle, Turn):
            cycle.begin()
        else:
            self._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        current, self._current = self._current, None
        assert self._watch is not None
        if self.transport.is_closing():
            self._watch.ending()
            return
        if isinstance(current, Turn):
            closes = not current.keep_alive
        else:
            closes = current is not None and current.closes
        if closes or (self._is_half_closed and not self.pipeline):
            self._end()
        elif self.pipeline:
            # not from here: thousands of requests may wait, each of them answered at once
            self.loop.call_soon(self._start_next)
        else:
            self.flow.resume_reading()
            if self._is_draining:  # its response began before, and could not say so
                self._say_goodbye()
            elif not self._is_arriving:
                self._watch.idle()

    def _start_next(self) -> None:
        if self.pipeline and self._current is None and not self.transport.is_closing():
            self.flow.resume_reading()
            cycle = self.pipeline.pop()
            self._begin(cycle, self.app)
            if isinstance(cycle, Turn) and self._is_arriving and cycle is self.cycle:
                cycle.wait_for_body()

    # the end

    def _say_goodbye(self) -> None:
        """End a connection that is idle; a request that is on its way gets this as its answer.

        RFC 9110, 15.5.9, has this status for it, and knows that the request may cross with it.
        """
        error = RequestTimedOut(
            "the server is stopping and takes no more requests over this connection; "
            "send it again over another one"
        )
        if self._is_arriving:
            self._refuse(error)
        else:
            self._is_deaf = self._is_last = True
            self._take_turn(Goodbye(self, self._edge, error, line=self._known_line))

    def _end(self) -> None:
        """Close the connection once everything is sent.

        A client that is still sending would be answered with a reset, which may overtake the
        response: it gets some time to read that, and what it sends meanwhile is thrown away. When
        the server stops, that may be any client.
        """
        assert self._watch is not None
        is_sending = self._is_counted and (self._is_deaf or self._is_arriving)
        may_send = (is_sending or self._is_draining) and not self._is_half_closed
        self._is_deaf = self._is_last = True
        self.url, self.headers = b"", []  # which may be long, and so may the time until its end
        if may_send and self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
            self._watch.arriving(Stage.GOODBYE if self._is_draining else Stage.END)
        else:
            self._close()

    def _close_after_newest(self) -> bool:
        """Let the newest response say that it is the last; False if there is none that can."""
        newest: Cycle | None = self.pipeline[0] if self.pipeline else self._current
        if newest is None or (isinstance(newest, RouteCycle) and newest.response_started):
            return False
        newest.keep_alive = False
        return True

    def _close(self) -> None:
        assert self._watch is not None
        self.transport.close()
        self._watch.ending()

    def _look_for_reset(self, *, again_in_s: float = _FIRST_LOOK_S) -> None:
        """Find out whether a client that sends no more has left altogether.

        Both look the same until something is sent. `100 Continue` is what a client may get at any
        time before its response, and only one that has left answers that with a reset.
        """
        if self.transport.is_closing() or not self._is_unanswered(self._current):
            return
        if not self._has_probed:
            self._has_probed = True
            self.continue_()
        elif is_reset(self.transport):
            self.transport.abort()
            return
        next_look_s = min(2 * again_in_s, _LAST_LOOK_S)
        self.loop.call_later(again_in_s, lambda: self._look_for_reset(again_in_s=next_look_s))

    @staticmethod
    def _is_unanswered(cycle: Cycle | None) -> bool:
        """Whether a request has come whole, and nothing of its response has been sent."""
        match cycle:
            case Exchange():
                return cycle.heading.http_version == "1.1"
            case RouteCycle():
                return not cycle.response_started and cycle.scope["http_version"] == "1.1"
            case _:
                return False
