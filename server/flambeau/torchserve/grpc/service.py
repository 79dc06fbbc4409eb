"""Both gRPC ports: opened before the HTTP listeners, drained beside the inference listener."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import grpc

from flambeau.address import Address
from flambeau.services import ServerParts, Service
from flambeau.tokens import Role
from flambeau.torchserve.grpc import health, inference, management, open_inference
from flambeau.torchserve.grpc.edge import Surroundings
from flambeau.torchserve.grpc.port import ConnectionAge, Port

_log = logging.getLogger(__name__)

INFERENCE, MANAGEMENT = "grpc_inference", "grpc_management"


class GrpcService(Service):
    """Owner of both ports: a firewall can tell predictions from management."""

    def __init__(self, parts: ServerParts) -> None:
        self._parts = parts
        self._ports: list[Port] = []
        self._probes: list[health.HealthService] = []

    async def start(self) -> None:
        """Accept calls from now on.

        Raises:
            ConfigError: An address that cannot be bound, or a certificate that cannot be used.
        """
        config = self._parts.config
        for name, address, role, age in (
            (
                INFERENCE,
                config.grpc_inference_address,
                Role.INFERENCE,
                ConnectionAge(
                    max_ms=config.grpc_inference_max_connection_age_ms,
                    grace_ms=config.grpc_inference_max_connection_age_grace_ms,
                ),
            ),
            (
                MANAGEMENT,
                config.grpc_management_address,
                Role.MANAGEMENT,
                ConnectionAge(
                    max_ms=config.grpc_management_max_connection_age_ms,
                    grace_ms=config.grpc_management_max_connection_age_grace_ms,
                ),
            ),
        ):
            self._ports.append(self._open(name, address, role, age))
        for port in self._ports:
            await port.start()
            shown = f"{port.name} at {port.address}"
            _log.info(shown, extra={"listener": port.name, "address": str(port.address)})

    async def stop(self, *, timeout_s: float) -> None:
        """Take no more calls, finish those there are, and cancel them after a time."""
        for probes in self._probes:
            probes.stop()
        await asyncio.gather(*(port.stop(timeout_s=timeout_s) for port in self._ports))

    def hurry(self) -> None:
        """Cancel the calls there are."""
        for port in self._ports:
            port.hurry()

    def _open(self, name: str, address: Address, role: Role, age: ConnectionAge) -> Port:
        parts = self._parts
        around = Surroundings(
            listener=name,
            access_log=parts.config.access_log,
            check_token=parts.guard.checker(role),
            who=lambda token: parts.guard.who([] if token is None else [token.encode()]),
        )
        handlers = self._inference(around) if role is Role.INFERENCE else self._management(around)
        probes = health.HealthService(parts.registry, services=handlers)
        self._probes.append(probes)
        return Port(
            name,
            address,
            {**handlers, health.SERVICE: probes.handler(around)},
            config=parts.config,
            age=age,
        )

    def _inference(self, around: Surroundings) -> Mapping[str, grpc.GenericRpcHandler]:
        parts = self._parts
        service = inference.InferenceService(parts.registry, parts.config)
        handlers = {inference.SERVICE: service.handler(around)}
        if parts.config.open_inference_protocol:
            standard = open_inference.OpenInferenceService(parts.registry)
            for name in (open_inference.STANDARD, open_inference.TORCHSERVE):
                handlers[name] = standard.handler(name, around)
        return handlers

    def _management(self, around: Surroundings) -> Mapping[str, grpc.GenericRpcHandler]:
        service = management.ManagementService(self._parts.operations)
        return {management.SERVICE: service.handler(around)}
