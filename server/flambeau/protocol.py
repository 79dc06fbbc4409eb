"""One HTTP connection: uvicorn's protocol, with a lane of its own for predictions.

A request that the fast lane knows becomes an `Exchange`, which takes the place of uvicorn's
request-response cycle; all others go to the application as ever. Both wait for their turn in
uvicorn's pipeline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, TypeAlias

from starlette.types import ASGIApp
from uvicorn._types import HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from flambeau.api.edge import lines_of
from flambeau.api.fast_lane import Exchange, FastLane, Heading

Cycle: TypeAlias = "Exchange | RequestResponseCycle"

_SMALL_BYTES: Final = 64 * 1024  # bodies up to this are copied to go out with their headers


class Protocol(HttpToolsProtocol):
    """A connection of a listener; uvicorn makes one for each client."""

    # uvicorn asks exchanges only what they have: response_complete and keep_alive
    cycle: Any
    pipeline: deque[tuple[Any, Any]]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        lane: FastLane | None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._lane = lane
        # the request whose turn it is; those behind it are in uvicorn's pipeline
        self._current: Cycle | None = None
        # the last prediction's, as most clients send the same headers each time
        self._heading: Heading | None = None
        # when the last response ended; None while a request is on its way
        self._idle_since: float | None = None

    # what the parser tells

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        exchange = self._exchange()
        if exchange is None:
            self._leave_to_uvicorn()
            return
        before: Cycle | None = self.cycle
        self.cycle = exchange
        if before is None or before.response_complete:
            self._current = exchange
            exchange.begin()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, None))

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, Exchange):
            self.cycle.body_received(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if isinstance(self.cycle, Exchange):
            self.cycle.body_complete()
        else:
            super().on_message_complete()

    def _exchange(self) -> Exchange | None:
        """The exchange that this request is, if it goes the fast way."""
        parser = self.parser
        assert parser is not None  # it is what calls
        if self._lane is None or parser.get_method() != b"POST" or parser.should_upgrade():
            return None
        call = self._lane.find(self.url)
        if call is None:
            return None
        heading = self._heading
        http_version = parser.get_http_version()
        if heading is None or not heading.is_same(self.url, self.headers, http_version):
            heading = Heading(call, self.url, self.headers, http_version, guard=self._lane.guard)
            self._heading = heading
        keep_alive = http_version != "1.0" and parser.should_keep_alive()
        return Exchange(
            self._lane,
            self,
            heading,
            keep_alive=keep_alive,
            expects_continue=self.expect_100_continue,
        )

    def _leave_to_uvicorn(self) -> None:
        """Make what `on_message_begin` has not, and go on as uvicorn does."""
        url, headers, expects_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects_continue
        self.headers.extend(headers)
        super().on_headers_complete()

    # what exchanges want

    def continue_(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def respond(
        self, exchange: Exchange, status: int, headers: bytes, body: bytes | memoryview
    ) -> None:
        if self.flow.write_paused:  # the client reads slowly: nothing more until it has caught up
            self._later(self._respond_when_read(exchange, status, headers, body))
            return
        head = b"%b%b%b%b" % (
            STATUS_LINE[status],
            lines_of(self.server_state.default_headers),
            headers,
            b"\r\n" if exchange.keep_alive or exchange.says_close else b"connection: close\r\n\r\n",
        )
        exchange.response_complete = True
        if len(body) <= _SMALL_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        if not exchange.keep_alive:
            self.transport.close()
        exchange.note(status)
        self.on_response_complete()

    def run(self, exchange: Exchange, app: ASGIApp) -> None:
        exchange.response_complete = True  # from here on, the cycle's is what counts
        cycle = RequestResponseCycle(
            scope=self._scope_of(exchange),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=exchange.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        if self.cycle is exchange:
            self.cycle = cycle
        self._start_asgi_task(cycle, app)

    def _scope_of(self, exchange: Exchange) -> HTTPScope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": exchange.heading.http_version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": "POST",
            "root_path": self.root_path,
            "path": exchange.heading.path,
            "raw_path": exchange.heading.path.encode(),
            "query_string": exchange.heading.target.partition(b"?")[2],
            "headers": exchange.heading.headers,
            "state": {},
            "extensions": {},
        }

    async def _respond_when_read(
        self, exchange: Exchange, status: int, headers: bytes, body: bytes | memoryview
    ) -> None:
        await self.flow.drain()
        if not exchange.response_complete:  # else the client has left
            self.respond(exchange, status, headers, body)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    # turns

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:  # noqa: ANN401  # an exchange has no app
        self._current = cycle
        if isinstance(cycle, Exchange):
            cycle.begin()
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._current = None
        if self.transport.is_closing():
            return
        if self.pipeline:
            # not from here: thousands of requests may wait, each of them answered at once
            self.loop.call_soon(self._start_next)
            return
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idleness(self.timeout_keep_alive)

    def _start_next(self) -> None:
        if self.pipeline and self._current is None and not self.transport.is_closing():
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())

    # idle connections: one timer that looks at the clock, not one for each request

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _watch_idleness(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            delay_s, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._watch_idleness(left_s)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.pipeline.clear()
        current, self._current = self._current, None
        if isinstance(current, Exchange):
            current.disconnected()
        elif current is not None and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)
