"""One FastAPI application per listener, each put together from the routers of `api/`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import Enum

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

import flambeau
from flambeau.api.edge import Edge
from flambeau.api.responses import PrettyJSON, error_response, http_error
from flambeau.errors import FlambeauError
from flambeau.metrics import Metrics

_log = logging.getLogger(__name__)


class Audience(str, Enum):
    """Who a listener is for; the name is in logs and metrics."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    METRICS = "metrics"


_TITLES = {
    Audience.INFERENCE: "Flambeau inference API",
    Audience.MANAGEMENT: "Flambeau management API",
    Audience.METRICS: "Flambeau metrics API",
}


def create_app(
    audience: Audience, routers: Iterable[APIRouter], *, metrics: Metrics, access_log: bool
) -> ASGIApp:
    """The application of one listener; every error leaves it as a documented JSON body."""
    app = FastAPI(
        title=_TITLES[audience],
        version=flambeau.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    for router in routers:
        app.include_router(router)
    app.include_router(_description_router(app))
    app.add_exception_handler(FlambeauError, _on_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_error)
    return Edge(app, listener=audience.value, metrics=metrics, access_log=access_log)


def _description_router(app: FastAPI) -> APIRouter:
    router = APIRouter()

    @router.options("/", operation_id="apiDescription")
    @router.get("/api-description", include_in_schema=False)
    async def describe_api() -> Response:
        """This document."""
        return PrettyJSON(app.openapi())

    return router


async def _on_error(request: Request, error: Exception) -> Response:
    response = error_response(error)
    if response.status_code >= 500:
        _log.warning(
            "%s: %s",
            type(error).__name__,
            error,
            extra={"request_id": request.state.request_id, "path": request.url.path},
            exc_info=None if isinstance(error, FlambeauError) else error,
        )
    return response


async def _on_http_exception(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, HTTPException)
    return http_error(error.status_code)


async def _on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=499)  # nobody reads it; the log and metrics do
