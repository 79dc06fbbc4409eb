"""Who is offered what, and where: routers by audience, and one listener for each address."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from fastapi import APIRouter, Request, Response

from flambeau.address import Address
from flambeau.api.auth import OpenRoute, token_router
from flambeau.api.body import BodyLimit
from flambeau.api.fast_lane import FastLane
from flambeau.api.health import health_router
from flambeau.api.inference import InferenceAPI
from flambeau.api.management import management_router
from flambeau.api.open_inference import open_inference_routers
from flambeau.api.prediction import Predictions
from flambeau.app import Audience, create_app
from flambeau.config import ServeConfig
from flambeau.key_file import Tokens
from flambeau.listener import Listener
from flambeau.metrics import CONTENT_TYPE, Metrics
from flambeau.services import ServerParts, Service
from flambeau.tls import tls_context


def listeners_of(
    parts: ServerParts, tokens: Tokens | None, beside: Sequence[Service]
) -> Iterator[AbstractContextManager[Listener]]:
    """One listener for each address, those of predictions first."""
    config = parts.config
    routers = routers_of(parts, tokens, beside)
    groups = list(_listening(config))
    tls = tls_context(config) if any(address.tls for address, _ in groups) else None
    for address, audiences in groups:
        offered = itertools.chain.from_iterable(routers[audience] for audience in audiences)
        app = create_app(
            audiences,
            [*offered, health_router(parts.registry)],
            config=config,
            metrics=parts.metrics,
            guard=parts.guard,
        )
        lane = None
        if config.fast_lane and Audience.INFERENCE in audiences:
            lane = FastLane(_predictions(parts), edge=app, guard=parts.guard)
        yield Listener.open(app, audiences, address, config=config, tls=tls, lane=lane)


def routers_of(
    parts: ServerParts, tokens: Tokens | None, beside: Sequence[Service]
) -> dict[Audience, list[APIRouter]]:
    """What each audience is offered, by the server and by its services."""
    offered = {
        Audience.INFERENCE: [
            InferenceAPI(_predictions(parts)).router(),
            *(
                open_inference_routers(parts.registry)
                if parts.config.open_inference_protocol
                else []
            ),
        ],
        Audience.MANAGEMENT: [
            management_router(parts.operations),
            *([token_router(tokens)] if tokens else []),
        ],
        Audience.METRICS: [_metrics_router(parts.metrics)],
    }
    for service in beside:
        for audience, router in service.routers().items():
            offered[audience].append(router)
    return offered


def _predictions(parts: ServerParts) -> Predictions:
    return Predictions(parts.registry, BodyLimit(parts.config.max_request_bytes))


def _metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter(route_class=OpenRoute)

    @router.get("/metrics", operation_id="metrics")
    async def scrape(request: Request) -> Response:
        """The Prometheus exposition; `name[]` keeps the samples of that name only."""
        names = request.query_params.getlist("name[]")
        return Response(metrics.render(names), headers={"content-type": CONTENT_TYPE})

    return router


def _listening(config: ServeConfig) -> Iterator[tuple[Address, tuple[Audience, ...]]]:
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
    yield from groups
