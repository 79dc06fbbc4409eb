"""The Open Inference Protocol's questions about server and models; `inference.py` has its `infer`.

TorchServe answers only the first three of these over HTTP.
"""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Response

import flambeau
from flambeau.api.auth import InferenceRoute, OpenRoute
from flambeau.api.responses import PrettyJSON
from flambeau.model_metadata import (
    EXTENSIONS,
    SERVER_NAME,
    is_model_ready,
    read_model_metadata,
)
from flambeau.registry import Registry


def open_inference_routers(registry: Registry) -> list[APIRouter]:
    """What everybody may ask, and what callers of models may."""
    return [_server_router(registry), _model_router(registry)]


def _server_router(registry: Registry) -> APIRouter:
    router = APIRouter(route_class=OpenRoute)

    @router.get("/v2", operation_id="v2_server_metadata")
    async def describe_server() -> Response:
        """Who serves; TorchServe misspells a key, which is here both ways."""
        extensions = list(EXTENSIONS)
        return PrettyJSON(
            {
                "name": SERVER_NAME,
                "version": flambeau.__version__,
                "extenstion": extensions,
                "extensions": extensions,
            }
        )

    @router.get("/v2/health/live", operation_id="v2_live")
    async def live() -> Response:
        """200 while the event loop turns."""
        return PrettyJSON({"live": True})

    @router.get("/v2/health/ready", operation_id="v2_ready")
    async def ready() -> Response:
        """200 while every model can answer, else 503."""
        is_ready = registry.is_ready
        return PrettyJSON({"ready": is_ready}, status_code=200 if is_ready else 503)

    return router


def _model_router(registry: Registry) -> APIRouter:
    router = APIRouter(route_class=InferenceRoute)
    one = "/v2/models/{model_name}"
    exact = one + "/versions/{model_version}"

    @router.get(one, operation_id="v2_model_metadata")
    @router.get(exact, operation_id="v2_version_metadata")
    async def describe_model(model_name: str, model_version: str | None = None) -> Response:
        """A model's versions, inputs and outputs."""
        return PrettyJSON(asdict(await read_model_metadata(registry, model_name, model_version)))

    @router.get(one + "/ready", operation_id="v2_model_ready")
    @router.get(exact + "/ready", operation_id="v2_version_ready")
    async def model_ready(model_name: str, model_version: str | None = None) -> Response:
        """200 while the model can answer, else 503."""
        is_ready = is_model_ready(registry.resolve(model_name, model_version))
        return PrettyJSON(
            {"name": model_name, "ready": is_ready}, status_code=200 if is_ready else 503
        )

    return router
