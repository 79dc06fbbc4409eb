"""Who is offered what, and where: routers by audience, and one listener for each address."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from flambeau.api.auth import OpenRoute, token_router
from flambeau.api.body import BodyLimit
from flambeau.api.fast_lane import FastLane
from flambeau.api.health import health_router
from flambeau.api.inference import InferenceAPI
from flambeau.api.management import management_router
from flambeau.api.open_inference import open_inference_routers
from flambeau.api.openapi import PARAMETERS
from flambeau.api.prediction import Predictions
from flambeau.app import create_app
from flambeau.audience import Audience
from flambeau.binding import Bound
from flambeau.key_file import Tokens
from flambeau.listener import Listener
from flambeau.metrics import CONTENT_TYPE, Metrics
from flambeau.services import ServerParts, Service
from flambeau.tls import tls_context


def listeners_of(
    parts: ServerParts,
    sockets: Sequence[Bound],
    tokens: Tokens | None,
    beside: Sequence[Service],
) -> list[Listener]:
    """One listener for each socket, in their order."""
    config = parts.config
    routers = routers_of(parts, tokens, beside)
    tls = tls_context(config) if any(bound.address.tls for bound in sockets) else None
    return [
        _listener(
            parts, bound, [router for each in bound.audiences for router in routers[each]], tls
        )
        for bound in sockets
    ]


def _listener(
    parts: ServerParts, bound: Bound, routers: Sequence[APIRouter], tls: ssl.SSLContext | None
) -> Listener:
    app = create_app(
        bound.audiences,
        [*routers, health_router(parts.registry)],
        config=parts.config,
        metrics=parts.metrics,
        guard=parts.guard,
    )
    lane = None
    if parts.config.fast_lane and Audience.INFERENCE in bound.audiences:
        lane = FastLane(_predictions(parts), edge=app, guard=parts.guard)
    return Listener(app, bound, parts.config, tls=tls, lane=lane)


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
            management_router(parts.operations, allowed_origin=parts.config.cors_allowed_origin),
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

    parameters = {"parameters": PARAMETERS["metrics"]}

    @router.get("/metrics", operation_id="metrics", openapi_extra=parameters)
    async def scrape(request: Request) -> Response:
        """The Prometheus exposition; `name[]` keeps the samples of that name only."""
        names = request.query_params.getlist("name[]")
        return Response(metrics.render(names), headers={"content-type": CONTENT_TYPE})

    return router
