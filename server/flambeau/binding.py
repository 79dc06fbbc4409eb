"""The listening sockets of a server: bound once, by whoever lives longest.

Under a supervisor that is the parent process. Its sockets stay open while it starts the server
anew, and connections wait in them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from flambeau.address import Address
from flambeau.audience import Audience
from flambeau.config import ServeConfig
from flambeau.errors import ConfigError

BACKLOG: Final = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A socket that listens.

    Attributes:
        socket: The socket.
        address: Where it was to listen.
        audiences: Whom it serves.
    """

    socket: socket.socket
    address: Address
    audiences: tuple[Audience, ...]

    @property
    def url(self) -> str:
        """Where it is reached, with the port the kernel chose."""
        if self.address.path is not None:
            return self.address.url
        host, port = self.socket.getsockname()[:2]
        return replace(self.address, host=str(host), port=int(port)).url


@contextmanager
def bound_sockets(config: ServeConfig) -> Generator[Sequence[Bound]]:
    """One listening socket for each address, that of predictions first; closed in the end.

    Raises:
        ConfigError: An address is in use, not this machine's, or not allowed.
    """
    with ExitStack() as stack:
        yield [
            stack.enter_context(_bound_socket(address, audiences))
            for address, audiences in _listening(config)
        ]


@contextmanager
def _bound_socket(address: Address, audiences: tuple[Audience, ...]) -> Generator[Bound]:
    """A socket that listens; a Unix socket's file goes away with it, where it was made."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(socket.AF_UNIX if address.path else family, socket.SOCK_STREAM)
    with listener, ExitStack() as stack:
        try:
            if address.path is None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address.host, address.port))
            else:
                _remove_stale(address.path)
                listener.bind(str(address.path))
                stack.callback(_unlink, address.path, maker=os.getpid())
            listener.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"{audiences[0].value}_address {address} cannot be bound: "
                f"{error.strerror or error}; choose another address, or stop what uses it"
            ) from error
        yield Bound(socket=listener, address=address, audiences=audiences)


def _unlink(path: Path, *, maker: int) -> None:
    if os.getpid() == maker:
        path.unlink(missing_ok=True)


def _listening(config: ServeConfig) -> Sequence[tuple[Address, tuple[Audience, ...]]]:
    """Each address and who is served there: one listener for those who share it; inference first.

    Port 0 is the kernel's to choose, so it is never the same twice.
    """
    wanted = {
        Audience.INFERENCE: config.inference_address,
        Audience.MANAGEMENT: config.management_address,
    }
    if config.metrics_api:
        wanted[Audience.METRICS] = config.metrics_address
    groups: list[tuple[Address, tuple[Audience, ...]]] = []
    for audience, address in wanted.items():
        for place, (other, audiences) in enumerate(groups):
            if address == other and (address.port or address.path):
                groups[place] = (address, (*audiences, audience))
                break
        else:
            groups.append((address, (audience,)))
    return groups


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
