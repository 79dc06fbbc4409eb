"""Whether the server lives, and whether it should get traffic: two questions, two routes."""

from __future__ import annotations

from fastapi import APIRouter, Response

from flambeau.api.responses import PrettyJSON, status_message
from flambeau.registry import Registry


def health_router(registry: Registry) -> APIRouter:
    """`/ping`, `/livez` and `/readyz`; the same on every listener."""
    router = APIRouter()

    @router.get("/ping", operation_id="ping")
    async def ping() -> Response:
        """TorchServe's health check: 500 once a model has lost workers for good."""
        if registry.is_healthy:
            return status_message("Healthy")
        return status_message("Unhealthy", code=500)

    @router.get("/livez", operation_id="livez")
    async def livez() -> Response:
        """200 while the event loop turns; restart the server when this fails."""
        return status_message("Alive")

    @router.get("/readyz", operation_id="readyz")
    async def readyz() -> Response:
        """200 while every model can answer; send no traffic when this fails."""
        if registry.is_ready:
            return status_message("Ready")
        reasons = registry.not_ready_reasons()
        return PrettyJSON({"status": "Not ready", "reasons": reasons}, status_code=503)

    return router
