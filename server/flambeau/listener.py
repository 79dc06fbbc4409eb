"""One HTTP listener: a bound socket with a uvicorn server on it, started and stopped by us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator, Sequence
from typing import Final, cast

import uvicorn

from flambeau.api.edge import Edge
from flambeau.api.fast_lane import FastLane
from flambeau.audience import Audience
from flambeau.binding import BACKLOG, Bound
from flambeau.config import ServeConfig
from flambeau.connections import Connections, max_connections
from flambeau.protocol import Limits, Protocol
from flambeau.socket_state import let_nobody_in
from flambeau.watch import Patience

_ON_THEIR_WAY_S: Final = 0.1  # for handshakes and requests that have begun
_LOOK_S: Final = 0.05


class Listener:
    """A uvicorn server on one socket.

    Attributes:
        audiences: Whom it serves.
        url: Where it is reached, with the port the kernel chose.
    """

    def __init__(
        self,
        app: Edge,
        bound: Bound,
        config: ServeConfig,
        *,
        tls: ssl.SSLContext | None,
        lane: FastLane | None = None,
    ) -> None:
        """Accept nothing yet.

        Args:
            app: What answers.
            bound: Where.
            config: How many clients there may be, and how long they may take.
            tls: What an address with TLS speaks.
            lane: Answers predictions without `app`; None leaves them to it.
        """
        self.audiences = bound.audiences
        self.url = bound.url
        self._socket = bound.socket
        server_config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        server_config.load()
        server_config.ssl = tls if bound.address.tls else None
        self._server = _Server(
            server_config, edge=app, lane=lane, limits=_limits(config, bound.audiences)
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        self._task = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        await self._server.wait_started(self._task)

    async def stop(self, *, timeout_s: float) -> None:
        """Close the socket and finish the requests that are there; cancel them after a time."""
        # uvicorn passes it to asyncio.wait_for, which takes fractions of a second
        self._server.config.timeout_graceful_shutdown = timeout_s  # type: ignore[assignment]
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.shield(self._task)

    def hurry(self) -> None:
        """Do not wait for requests being answered."""
        self._server.force_exit = True


class _Server(uvicorn.Server):
    """uvicorn's server with our protocol, without signal handlers: `serving.py` decides."""

    def __init__(
        self, config: uvicorn.Config, *, edge: Edge, lane: FastLane | None, limits: Limits
    ) -> None:
        super().__init__(config)
        self._edge = edge
        self._lane = lane
        self._limits = limits
        self._is_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        tls = self.config.ssl
        handshake_s = self._limits.patience.header_s if tls else None
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=each,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=handshake_s,
            )
            for each in sockets or []
        ]
        self.started = True
        self._is_started.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let no more clients in, answer what those that are in have sent, and hang up on each.

        Nothing that has reached the server is reset: not a connection that nobody has accepted yet,
        nor a request that its client sends while it is hung up on.
        """
        for each in sockets or []:
            let_nobody_in(each)
        self._limits.connections.are_draining = True
        for connection in self._connections():
            connection.drain()
        await asyncio.sleep(_ON_THEIR_WAY_S)
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        try:
            await asyncio.wait_for(
                self._wait_ended(), timeout=self.config.timeout_graceful_shutdown
            )
        except asyncio.TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()

    async def _wait_ended(self) -> None:
        while self.server_state.connections and not self.force_exit:
            for connection in self._connections():
                connection.shutdown()
            await asyncio.sleep(_LOOK_S)
        await self._wait_tasks_to_complete()

    def _connections(self) -> list[Protocol]:
        return cast("list[Protocol]", list(self.server_state.connections))

    def _protocol(self) -> Protocol:
        return Protocol(
            self.config,
            self.server_state,
            {},
            edge=self._edge,
            lane=self._lane,
            limits=self._limits,
        )

    async def wait_started(self, serving: asyncio.Task[None]) -> None:
        """Wait until connections are accepted; raises what `serving` raised instead."""
        started = asyncio.ensure_future(self._is_started.wait())
        await asyncio.wait({started, serving}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if serving.done():
            serving.result()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _limits(config: ServeConfig, audiences: Sequence[Audience]) -> Limits:
    patience = Patience(
        header_s=config.header_timeout_s,
        body_s=config.body_timeout_s,
        idle_s=config.keep_alive_s,
        write_s=config.write_timeout_s,
    )
    count = max_connections(config.max_connections, is_first=Audience.INFERENCE in audiences)
    names = frozenset(name.lower() for name in config.host_names)
    return Limits(patience=patience, connections=Connections(count), host_names=names)
