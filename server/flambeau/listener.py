"""One HTTP listener: a bound socket with a uvicorn server on it, started and stopped by us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from flambeau.app import Audience
from flambeau.config import Address, ServeConfig
from flambeau.errors import ConfigError

_BACKLOG = 2048


def bound_socket(audience: Audience, address: Address) -> socket.socket:
    """A socket that listens at `address`.

    Raises:
        ConfigError: The address is in use, not this machine's, or not allowed.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{audience.value}_address {address} cannot be bound: {error.strerror or error}; "
            "choose another address, or stop what uses it"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached, with the port the kernel chose."""
    host, port = listener.getsockname()[:2]
    return f"http://{Address(str(host), int(port))}"


class Listener:
    """A uvicorn server on one socket."""

    def __init__(self, app: ASGIApp, bound: socket.socket, config: ServeConfig) -> None:
        self._socket = bound
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(config.keep_alive_s),
            )
        )
        self._task: asyncio.Task[None] | None = None

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


class _QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: `serving.py` decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._is_started.set()

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
