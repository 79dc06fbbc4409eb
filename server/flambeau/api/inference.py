"""The inference listener's routes: predictions, and the documents that describe them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Generator
from contextlib import contextmanager

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from flambeau.api.auth import InferenceRoute
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
_PATIENCE_S = 0.05
_INTERNAL = {b"url_path", b"explain", b"describe"}  # what the front tells handlers, not clients
_VERSION_HEADER = "x-model-version"
_OURS = {"connection", "content-length", "transfer-encoding", "x-request-id", _VERSION_HEADER}


def inference_router(registry: Registry, *, max_request_bytes: int) -> APIRouter:
    """Routes that answer with a model."""
    router = APIRouter(route_class=InferenceRoute)

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
    watcher = _DisconnectWatcher(request, pending.reply)
    try:
        return await pending.reply
    except asyncio.CancelledError:
        if watcher.client_is_gone:
            raise ClientDisconnect from None
        raise
    finally:
        watcher.stop()


class _DisconnectWatcher:
    """Cancels a reply when its client leaves.

    It looks from `_PATIENCE_S` on: most requests are answered by then, and cost no task.
    """

    def __init__(self, request: Request, reply: asyncio.Future[Reply]) -> None:
        self.client_is_gone = False
        self._request = request
        self._reply = reply
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._look)
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._task = asyncio.ensure_future(self._cancel_when_gone())

    async def _cancel_when_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.client_is_gone = True
        self._reply.cancel()


def _to_response(reply: Reply, *, version: str) -> Response:
    """The HTTP form of a worker's reply, which is checked: handlers are not trusted.

    `x-model-version` tells which version answered, also while the default changes.

    Raises:
        HandlerFailed: A status or header that HTTP cannot carry.
    """
    if not 200 <= reply.status <= 599:
        raise HandlerFailed(f"the handler set status {reply.status}; use 200 to 599")
    response = Response(reply.body, status_code=reply.status)
    if _HEADER_VALUE.fullmatch(version):  # versions are free text
        response.raw_headers.append((_VERSION_HEADER.encode(), version.encode("latin-1")))
    for name, value in reply.headers:
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise HandlerFailed(f"the handler set a header that HTTP cannot carry: {name!r}")
        if name.lower() not in _OURS:
            response.raw_headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
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
