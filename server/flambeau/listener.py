"""One HTTP listener: a bound socket with a uvicorn server on it, started and stopped by us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn

from flambeau.address import Address
from flambeau.api.edge import Edge
from flambeau.api.fast_lane import FastLane
from flambeau.app import Audience
from flambeau.config import ServeConfig
from flambeau.connections import Connections, max_connections
from flambeau.errors import ConfigError
from flambeau.protocol import Limits, Protocol
from flambeau.watch import Patience

_BACKLOG = 2048


class Listener:
    """A uvicorn server on one socket.

    Attributes:
        audiences: Whom it serves.
        url: Where it is reached, with the port the kernel chose.
    """

    def __init__(
        self,
        app: Edge,
        bound: socket.socket,
        config: ServeConfig,
        *,
        audiences: Sequence[Audience],
        url: str,
        tls: ssl.SSLContext | None,
        lane: FastLane | None,
    ) -> None:
        self.audiences = audiences
        self.url = url
        self._socket = bound
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
        server_config.ssl = tls
        self._server = _Server(
            server_config, edge=app, lane=lane, limits=_limits(config, audiences)
        )
        self._task: asyncio.Task[None] | None = None

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        app: Edge,
        audiences: Sequence[Audience],
        address: Address,
        *,
        config: ServeConfig,
        tls: ssl.SSLContext | None,
        lane: FastLane | None = None,
    ) -> Generator[Listener]:
        """A listener whose socket is bound, and closed again in the end.

        Args:
            app: What answers.
            audiences: Whom it serves.
            address: Where.
            config: How many clients there may be, and how long they may take.
            tls: What an address with TLS speaks.
            lane: Answers predictions without `app`; None leaves them to it.

        Raises:
            ConfigError: The address is in use, not this machine's, or not allowed.
        """
        with _bound_socket(audiences[0], address) as bound:
            yield cls(
                app,
                bound,
                config,
                audiences=audiences,
                url=_url(bound, address),
                tls=tls if address.tls else None,
                lane=lane,
            )

    async def start(self) -> None:
        """Accept connections from now on."""
        self._task = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        await self._server.wait_started(self._task)

    async def stop(self, *, timeout_s: float) -> None:
        """Close the socket and finish the requests being answered; cancel them after a time."""
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
                backlog=_BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=handshake_s,
            )
            for each in sockets or []
        ]
        self.started = True
        self._is_started.set()

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
    return Limits(patience=patience, connections=Connections(count))


@contextlib.contextmanager
def _bound_socket(audience: Audience, address: Address) -> Generator[socket.socket]:
    """A socket that listens at `address`; a Unix socket's file goes away with it."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(socket.AF_UNIX if address.path else family, socket.SOCK_STREAM)
    with listener, contextlib.ExitStack() as stack:
        try:
            if address.path is None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address.host, address.port))
            else:
                _remove_stale(address.path)
                listener.bind(str(address.path))
                stack.callback(address.path.unlink, missing_ok=True)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"{audience.value}_address {address} cannot be bound: {error.strerror or error}; "
                "choose another address, or stop what uses it"
            ) from error
        yield listener


def _url(listener: socket.socket, address: Address) -> str:
    """Where a listening socket is reached, with the port the kernel chose."""
    if address.path is not None:
        return address.url
    host, port = listener.getsockname()[:2]
    return replace(address, host=str(host), port=int(port)).url


def _remove_stale(path: Path) -> None:
    """Remove a socket's file that a server left behind when it was killed."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # `bind` says what is wrong
