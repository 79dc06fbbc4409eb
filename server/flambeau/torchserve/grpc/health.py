"""gRPC's standard health service, which load balancers and probes ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from flambeau.errors import NotFound
from flambeau.registry import Registry
from flambeau.torchserve.grpc.edge import Call, Rpcs, Surroundings
from flambeau.torchserve.grpc.refusals import refuse_lookup

SERVICE = "grpc.health.v1.Health"
_WATCH_EVERY_S = 0.5


class HealthService:
    """Answers `grpc.health.v1.Health` with the registry's readiness, as `/readyz` does."""

    def __init__(self, registry: Registry, *, services: Collection[str]) -> None:
        """Know the names that may be asked for, besides the empty one for the whole server."""
        self._registry = registry
        self._known = {"", SERVICE, *services}
        self._stopping = asyncio.Event()

    def handler(self, surroundings: Surroundings) -> grpc.GenericRpcHandler:
        """The service, for a server; probes need no token."""
        rpcs = Rpcs(SERVICE, surroundings, refuse=refuse_lookup)
        rpcs.unary("Check", HealthCheckRequest, self.check, is_open=True)
        rpcs.unary_stream("Watch", HealthCheckRequest, self.watch, is_open=True)
        return rpcs.handler()

    def stop(self) -> None:
        """Tell all who watch that this is the end; else the server would wait for them."""
        self._stopping.set()

    async def check(self, message: HealthCheckRequest, _: Call) -> HealthCheckResponse:
        """The state of now.

        Raises:
            NotFound: No service of this name is here.
        """
        if message.service not in self._known:
            raise NotFound(f"Service not found: {message.service}")
        return HealthCheckResponse(status=self._status())

    async def watch(
        self, message: HealthCheckRequest, _: Call
    ) -> AsyncGenerator[HealthCheckResponse, None]:
        """The state of now, and each one that follows, until the server stops."""
        if message.service not in self._known:
            yield HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
            await self._stopping.wait()
            return
        said: int | None = None
        while True:
            if said != (status := self._status()):
                said = status
                yield HealthCheckResponse(status=status)
            if self._stopping.is_set():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _WATCH_EVERY_S)

    def _status(self) -> int:
        ready = self._registry.is_ready and not self._stopping.is_set()
        return HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
