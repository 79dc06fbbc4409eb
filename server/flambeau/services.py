"""What runs beside the HTTP listeners for as long as the server does: gRPC, snapshots, samplers.

class Sampler(Service):
    async def start(self) -> None: ...

await serve(config, services=[lambda parts: Sampler(parts.metrics)], ...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fastapi import APIRouter

from flambeau.api.auth import Guard
from flambeau.api.operations import Operations
from flambeau.audience import Audience
from flambeau.config import ServeConfig
from flambeau.metrics import Metrics
from flambeau.packages import PackageLoader
from flambeau.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerParts:
    """What a service may work with; it owns none of it."""

    config: ServeConfig
    registry: Registry
    packages: PackageLoader
    operations: Operations
    metrics: Metrics
    guard: Guard


class Service:
    """Something with a life of its own; every method may be left as it is."""

    async def start(self) -> None:
        """Begin, before the HTTP listeners accept connections.

        Raises:
            ConfigError: It cannot, and the server must not start without it.
        """

    def routers(self) -> Mapping[Audience, APIRouter]:
        """What it offers over HTTP, by listener."""
        return {}

    def models_registered(self) -> None:
        """Every model that is served from the start has been registered, or has failed to be."""

    async def stop(self, *, timeout_s: float) -> None:
        """Take no new work and finish what there is; drop it after a time.

        Called once, beside the inference listener's end, while all models still answer.
        """

    def hurry(self) -> None:
        """Drop what is left at once: `stop` is to return now."""


MakeService: TypeAlias = Callable[[ServerParts], "Service | None"]
"""Makes a service, or None when the configuration wants none."""
