"""One FastAPI application per listener, each put together from the routers of `api/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import flambeau
from flambeau.api.auth import Guard, OpenRoute, require_roles
from flambeau.api.edge import Edge
from flambeau.api.openapi import document_of
from flambeau.api.responses import PrettyJSON, answer_error, error_response, http_error
from flambeau.audience import Audience
from flambeau.config import ServeConfig
from flambeau.errors import FlambeauError
from flambeau.metrics import Metrics

_TITLES = {
    Audience.INFERENCE: "TorchServe APIs",  # clients look for it
    Audience.MANAGEMENT: "TorchServe APIs",
    Audience.METRICS: "Flambeau metrics API",
}


def create_app(
    audiences: Sequence[Audience],
    routers: Iterable[APIRouter],
    *,
    config: ServeConfig,
    metrics: Metrics,
    guard: Guard | None = None,
) -> Edge:
    """The application of one listener; every error leaves it as a documented JSON body.

    Args:
        audiences: Whom it serves; the first one's name is the listener's in logs and metrics.
        routers: What it offers them.
        config: Whether to log each request, and the CORS headers of every response.
        metrics: Where responses count.
        guard: Asks for tokens; None asks for none.

    Raises:
        TypeError: A route does not declare whose token it asks for.
    """
    app = FastAPI(
        title=_TITLES[audiences[0]],
        version=flambeau.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # a route of ours
        redirect_slashes=False,
    )
    app.state.guard = guard or Guard(None)
    everything = [*routers, _description_router(app)]
    require_roles([*everything, app.router])
    for router in everything:
        app.include_router(router)
    app.add_exception_handler(FlambeauError, _on_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_error)
    return Edge(
        app,
        listener=audiences[0].value,
        metrics=metrics,
        access_log=config.access_log,
        headers=_cors_headers(config),
    )


def _cors_headers(config: ServeConfig) -> list[tuple[str, str]]:
    headers = {
        "access-control-allow-origin": config.cors_allowed_origin,
        "access-control-allow-methods": config.cors_allowed_methods,
        "access-control-allow-headers": config.cors_allowed_headers,
    }
    return [(name, value) for name, value in headers.items() if value]


def _description_router(app: FastAPI) -> APIRouter:
    router = APIRouter(route_class=OpenRoute)

    @cache  # to write it takes longer than many predictions, and it never changes
    def document() -> bytes:
        return bytes(PrettyJSON(document_of(app)).body)

    async def describe_api() -> Response:
        """This document."""
        return Response(document(), media_type=PrettyJSON.media_type)

    router.add_api_route("/", describe_api, methods=["OPTIONS"], operation_id="apiDescription")
    path = "/api-description"
    router.add_api_route(path, describe_api, methods=["GET"], operation_id="api-description")
    for other in (path, "/openapi.json"):
        methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
        router.add_api_route(other, describe_api, methods=methods, include_in_schema=False)
    return router


async def _on_error(request: Request, error: Exception) -> Response:
    return answer_error(error, request_id=request.state.request_id, path=request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    guard: Guard = request.app.state.guard
    if (refusal := guard.stranger(request.scope)) is not None and error.status_code == 404:
        return error_response(refusal)
    return http_error(error.status_code)


async def _on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=499)  # nobody reads it; the log and metrics do
