"""Whether the server lives, and whether it should get traffic: two questions, two routes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from flambeau.api.auth import Guard, OpenRoute
from flambeau.api.responses import PrettyJSON, status_message
from flambeau.registry import Registry

_ANY = ["HEAD", "POST", "PUT", "PATCH", "DELETE"]  # TorchServe answers a ping by any method


def health_router(registry: Registry) -> APIRouter:
    """`/ping`, `/livez` and `/readyz`; the same on every listener, and for everybody."""
    router = APIRouter(route_class=OpenRoute)

    @router.get("/ping", operation_id="ping")
    @router.api_route("/ping", methods=_ANY, include_in_schema=False)
    async def ping() -> Response:
        """TorchServe's health check: 500 once a model has lost workers for good."""
        if registry.is_healthy:
            return status_message("Healthy")
        return status_message("Unhealthy", code=500)

    @router.get("/livez", operation_id="livez")
    @router.head("/livez", include_in_schema=False)
    async def livez() -> Response:
        """200 while the event loop turns; restart the server when this fails."""
        return status_message("Alive")

    @router.get("/readyz", operation_id="readyz")
    @router.head("/readyz", include_in_schema=False)
    async def readyz(request: Request) -> Response:
        """200 while every model can answer; send no traffic when this fails.

        The reasons name models and archives, so they are for callers with a token only.
        """
        if registry.is_ready:
            return status_message("Ready")
        guard: Guard = request.app.state.guard
        reasons = registry.not_ready_reasons() if guard.trusts(request.scope) else []
        return PrettyJSON({"status": "Not ready", "reasons": reasons}, status_code=503)

    return router
