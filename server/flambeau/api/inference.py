"""The inference listener's routes: predictions in every form, and the documents about them.

`prediction.py` has the table of paths; here are SageMaker's `/invocations`, whose model is named in
the query or in a form, and the documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from flambeau.admission import counted
from flambeau.api.auth import Guard, InferenceRoute
from flambeau.api.body import read_body, split_inputs
from flambeau.api.inference_document import describe_model
from flambeau.api.openapi import PARAMETERS
from flambeau.api.prediction import PATHS, Call, PredictionPath, Predictions, headers_for
from flambeau.api.reply import StreamedResponse, headers_of, to_response
from flambeau.api.responses import PrettyJSON
from flambeau.errors import BadParameter
from flambeau.messages import Input, Reply
from flambeau.pending import PendingRequest

_METHODS = ["GET", "PUT", "PATCH", "DELETE"]  # TorchServe takes any; POST is the documented one
_PATIENCE_S = 0.05


class InferenceAPI:
    """Routes that answer with a model."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._registry = predictions.registry

    def router(self) -> APIRouter:
        """The table of routes."""
        router = APIRouter(route_class=InferenceRoute)
        for each in PATHS:
            endpoint = self._endpoint(each)
            router.add_api_route(
                each.path,
                endpoint,
                methods=["POST"],
                operation_id=each.operation_id,
                name=each.operation_id,
                description=each.text,
                openapi_extra={"parameters": each.parameters},
            )
            router.add_api_route(each.path, endpoint, methods=_METHODS, include_in_schema=False)
            router.add_api_route(
                each.path, self.describe_routes, methods=["OPTIONS"], include_in_schema=False
            )
        path = "/invocations"
        router.add_api_route(
            path,
            self.invoke,
            methods=["POST"],
            operation_id="invocations",
            openapi_extra={"parameters": PARAMETERS["invocations"]},
        )
        router.add_api_route(path, self.invoke, methods=_METHODS, include_in_schema=False)
        return router

    def _endpoint(self, path: PredictionPath) -> Callable[[Request], Awaitable[Response]]:
        async def predict(request: Request) -> Response:
            call = path.call(request.path_params)
            self._registry.resolve(call.model, call.version)  # refused before its body is read
            return await self._run(request, call, await self._inputs(request))

        return predict

    async def invoke(self, request: Request) -> Response:
        """Answer with the model that the query or a form field names, or the only one there is."""
        inputs = await self._inputs(request)
        named = {part.name: part.body for part in inputs}
        model = request.query_params.get("model_name")
        if model is None and "model_name" in named:
            model = bytes(named["model_name"]).decode(errors="replace")
        if model is None:
            startup = [each for each in self._registry.defaults() if each.package.at_startup]
            if len(startup) != 1:
                raise BadParameter("Parameter model_name is required.")
            model = startup[0].model
        return await self._run(request, Call(model=model, query_is_input=True), inputs)

    async def describe_routes(
        self, model_name: str, request: Request, model_version: str | None = None
    ) -> Response:
        """One model's OpenAPI document."""
        self._registry.resolve(model_name, model_version)
        guard: Guard = request.app.state.guard
        return PrettyJSON(describe_model(model_name, keys=guard.is_on))

    async def _inputs(self, request: Request) -> list[Input]:
        body = await read_body(request, self._predictions.body_limit)
        return split_inputs(body, content_type=request.headers.get("content-type"))

    async def _run(self, request: Request, call: Call, inputs: list[Input]) -> Response:
        if call.query_is_input:
            inputs = [*_query_inputs(request), *inputs]
        version, inference = self._predictions.prepare(
            call,
            request_id=request.state.request_id,
            headers=headers_for(call, request.headers.raw),
            inputs=inputs,
        )
        with counted(version, gone=ClientDisconnect, version_given=call.version is not None):
            pending = version.submit(inference, version_given=call.version is not None)
            reply = await _reply(pending, request)
            headers = headers_of(pending, reply, version=version)
            if pending.rest is None:
                return to_response(reply, headers)
        return StreamedResponse(reply, headers, pending.rest)


def _query_inputs(request: Request) -> list[Input]:
    return [
        Input(name=name, content_type=None, body=memoryview(value.encode()))
        for name, value in request.query_params.items()
    ]


async def _reply(pending: PendingRequest, request: Request) -> Reply:
    """The worker's reply, or its first part; a client that leaves first withdraws its request.

    Raises:
        ClientDisconnect: Nobody is there to answer any more.
        FlambeauError: The request failed.
    """
    watcher = _DisconnectWatcher(request, pending)
    try:
        return await pending.reply
    except asyncio.CancelledError:
        if watcher.client_is_gone:
            raise ClientDisconnect from None
        pending.abandon()
        raise
    finally:
        watcher.stop()


class _DisconnectWatcher:
    """Abandons a request when its client leaves.

    It looks from `_PATIENCE_S` on: most requests are answered by then, and cost no task.
    """

    def __init__(self, request: Request, pending: PendingRequest) -> None:
        self.client_is_gone = False
        self._request = request
        self._pending = pending
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._look)
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._task = asyncio.ensure_future(self._abandon_when_gone())

    async def _abandon_when_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.client_is_gone = True
        self._pending.abandon()
