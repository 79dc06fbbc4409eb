"""The inference listener's routes: predictions, and the documents that describe them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from flambeau.api.body import read_body, split_inputs
from flambeau.api.responses import PrettyJSON
from flambeau.batcher import PendingRequest
from flambeau.errors import (
    HandlerFailed,
    Overloaded,
    RequestError,
)
from flambeau.messages import InferenceRequest, Reply
from flambeau.model_version import ModelVersion
from flambeau.registry import Registry

_METHODS = ["GET", "PUT", "PATCH", "DELETE"]  # TorchServe takes any; POST is the documented one
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_INTERNAL = {b"url_path", b"explain", b"describe"}  # what the front tells handlers, not clients
_VERSION_HEADER = "x-model-version"
_OURS = {"connection", "content-length", "transfer-encoding", "x-request-id", _VERSION_HEADER}


def inference_router(registry: Registry, *, max_request_bytes: int) -> APIRouter:
    """Routes that answer with a model."""
    router = APIRouter()

    one, exact = "/predictions/{model_name}", "/predictions/{model_name}/{model_version}"

    @router.post(one, operation_id="predictions")
    @router.api_route(one, methods=_METHODS, include_in_schema=False)
    async def predict(model_name: str, request: Request) -> Response:
        """Answer one request with the model's default version."""
        return await answer(request, model_name, None)

    @router.post(exact, operation_id="version_predictions")
    @router.api_route(exact, methods=_METHODS, include_in_schema=False)
    async def predict_version(model_name: str, model_version: str, request: Request) -> Response:
        """Answer one request with exactly this version."""
        return await answer(request, model_name, model_version)

    @router.options(one, include_in_schema=False)
    @router.options(exact, include_in_schema=False)
    async def describe_routes(model_name: str, model_version: str | None = None) -> Response:
        """One model's OpenAPI document."""
        registry.resolve(model_name, model_version)
        return PrettyJSON(_openapi(model_name))

    async def answer(request: Request, model: str, version: str | None) -> Response:
        registry.resolve(model, version)  # an unknown model is refused before its body is read
        body = await read_body(request, max_bytes=max_request_bytes)
        inputs = split_inputs(body, content_type=request.headers.get("content-type"))
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request.headers.raw
            if name not in _INTERNAL
        ]
        headers += [("url_path", ""), ("explain", "False")]
        inference = InferenceRequest(
            request_id=request.state.request_id, headers=headers, inputs=inputs
        )
        found = registry.resolve(model, version)
        with _counted(found):
            pending = found.submit(inference)
            return _to_response(await _reply(pending, request), version=found.version)

    return router


@contextmanager
def _counted(version: ModelVersion) -> Generator[None]:
    """Count the request inside by its outcome."""
    started_at = time.monotonic()
    outcome = "worker_error"
    try:
        yield
        outcome = "ok"
    except RequestError:
        outcome = "request_error"
        raise
    except Overloaded:
        outcome = "overloaded"
        raise
    except ClientDisconnect:
        outcome = "cancelled"
        raise
    finally:
        version.metrics.request_done(outcome=outcome, duration_s=time.monotonic() - started_at)


async def _reply(pending: PendingRequest, request: Request) -> Reply:
    """The worker's reply; a client that leaves first withdraws its request.

    Raises:
        ClientDisconnect: Nobody is there to answer any more.
        FlambeauError: The request failed.
    """
    gone = asyncio.ensure_future(_wait_disconnected(request))
    try:
        waiting: tuple[asyncio.Future[Any], ...] = (pending.reply, gone)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if pending.reply.done():
            return pending.reply.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        pending.reply.cancel()


async def _wait_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _to_response(reply: Reply, *, version: str) -> Response:
    """The HTTP form of a worker's reply, which is checked: handlers are not trusted.

    `x-model-version` tells which version answered, also while the default changes.

    Raises:
        HandlerFailed: A status or header that HTTP cannot carry.
    """
    if not 200 <= reply.status <= 599:
        raise HandlerFailed(f"the handler set status {reply.status}; use 200 to 599")
    response = Response(reply.body, status_code=reply.status)
    for name, value in reply.headers:
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise HandlerFailed(f"the handler set a header that HTTP cannot carry: {name!r}")
        if name.lower() not in _OURS:
            response.headers[name] = value
    if _HEADER_VALUE.fullmatch(version):
        response.headers[_VERSION_HEADER] = version
    return response


def _openapi(model: str) -> dict[str, object]:
    """TorchServe's per-model document."""
    responses = {
        str(code): {"description": text}
        for code, text in (
            (200, "The model's answer"),
            (404, "Model not found or Model Version not found"),
            (500, "Internal Server Error"),
            (503, "No worker is available to serve request"),
        )
    }
    operation = {"operationId": "prediction", "parameters": [], "responses": responses}
    return {
        "openapi": "3.0.1",
        "info": {"title": f"RESTful API for: {model}", "version": "1.0.0"},
        "paths": {f"/prediction/{model}": {"post": operation}},
    }
