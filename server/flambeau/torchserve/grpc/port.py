"""One gRPC port: bound when made, with TLS where its address says so, and with reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection

from flambeau.address import Address
from flambeau.config import ServeConfig
from flambeau.errors import ConfigError

_MAX_METADATA_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionAge:
    """How long a connection lives, so that load balancers can spread clients anew.

    Attributes:
        max_ms: Milliseconds until clients are told to connect again; 0 for no limit.
        grace_ms: Milliseconds that calls may go on after that; 0 for no limit.
    """

    max_ms: int = 0
    grace_ms: int = 0


class Port:
    """A gRPC server at one address."""

    def __init__(
        self,
        name: str,
        address: Address,
        handlers: Mapping[str, grpc.GenericRpcHandler],
        *,
        config: ServeConfig,
        age: ConnectionAge,
    ) -> None:
        """Bind the address; calls are accepted from `start` on.

        Args:
            name: The port's name in logs and messages.
            address: Where it listens.
            handlers: What it offers, by the services' full names.
            config: The largest message, and the certificate.
            age: How long connections live.

        Raises:
            ConfigError: The address cannot be bound, or the certificate cannot be used.
        """
        options = _options(config, age)
        self._server = grpc.aio.server(handlers=list(handlers.values()), options=options)
        reflection.enable_server_reflection(
            [*handlers, reflection.SERVICE_NAME], self._server, pool=None
        )
        self.name = name
        self.address = self._bind(address, config)
        # stops that were begun
        self._stopping: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Accept calls from now on."""
        await self._server.start()

    async def stop(self, *, timeout_s: float) -> None:
        """Take no more calls, finish those there are, and cancel them after a time."""
        await self._server.stop(timeout_s)

    def hurry(self) -> None:
        """Cancel the calls there are."""
        stopping = asyncio.ensure_future(self._server.stop(None))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    def _bind(self, address: Address, config: ServeConfig) -> Address:
        """Where it listens, with the port the kernel chose."""
        target = str(replace(address, tls=False))
        try:
            if address.tls:
                port = self._server.add_secure_port(target, _credentials(self.name, config))
            else:
                port = self._server.add_insecure_port(target)
        except RuntimeError as error:
            raise ConfigError(
                f"{self.name}_address {address} cannot be bound; choose another address, or stop "
                "what uses it"
            ) from error
        return address if address.path is not None else replace(address, port=port)


def _options(config: ServeConfig, age: ConnectionAge) -> Sequence[tuple[str, int]]:
    limits = {
        "grpc.max_connection_age_ms": age.max_ms,
        "grpc.max_connection_age_grace_ms": age.grace_ms,
    }
    return [
        ("grpc.max_receive_message_length", config.max_request_bytes),
        ("grpc.max_send_message_length", -1),  # answers have their own limit, max_response_bytes
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.so_reuseport", 0),  # else a second server takes the same port, and half the calls
        *((key, value) for key, value in limits.items() if value > 0),
    ]


def _credentials(name: str, config: ServeConfig) -> grpc.ServerCredentials:
    if config.certificate_file is None or config.private_key_file is None:
        raise ConfigError(
            f"{name}_address is https://, which needs certificate_file and private_key_file"
        )
    try:
        chain = config.certificate_file.read_bytes()
        key = config.private_key_file.read_bytes()
        authorities = config.client_ca_file.read_bytes() if config.client_ca_file else None
    except OSError as error:
        raise ConfigError(f"{name}_address is https://, but {error}; name the files") from error
    return grpc.ssl_server_credentials(
        [(key, chain)], authorities, require_client_auth=authorities is not None
    )
