"""The inference listener's routes: predictions in every form, and the documents about them.

/predictions/{model}[/{version}[/{url_path...}]]   TorchServe's own
/explanations/{model}[/{version}]                  the same, for an explanation
/v1/models/{model}:predict, :explain               KServe, version 1
/v2/models/{model}/infer, /explain                 KServe, version 2
/invocations, /models/{model}/invoke               SageMaker
/{model}[/{version}]/predict                       TorchServe's oldest; the query is input, too
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from flambeau.admission import counted, handler_headers
from flambeau.api.auth import InferenceRoute
from flambeau.api.body import read_body, split_inputs
from flambeau.api.inference_document import describe_model
from flambeau.api.reply import StreamedResponse, headers_of, to_response
from flambeau.api.responses import PrettyJSON
from flambeau.errors import BadParameter
from flambeau.messages import InferenceRequest, Input, Reply
from flambeau.pending import PendingRequest
from flambeau.registry import Registry

_METHODS = ["GET", "PUT", "PATCH", "DELETE"]  # TorchServe takes any; POST is the documented one
_PATIENCE_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What a path asks for.

    Attributes:
        model: Its name.
        version: Which; None for the default.
        url_path: What followed the version; None where paths have no such part.
        explain: Whether an explanation is wanted instead of an answer; None where it cannot be.
        query_is_input: Whether the query's values are inputs of the model.
    """

    model: str
    version: str | None = None
    url_path: str | None = None
    explain: bool | None = None
    query_is_input: bool = False


class InferenceAPI:
    """Routes that answer with a model."""

    def __init__(self, registry: Registry, *, max_request_bytes: int) -> None:
        """Routes over one registry.

        Args:
            registry: What is served.
            max_request_bytes: Largest body.
        """
        self._registry = registry
        self._max_request_bytes = max_request_bytes

    def router(self) -> APIRouter:
        """The table of routes; operation ids are TorchServe's."""
        router = APIRouter(route_class=InferenceRoute)
        one, exact = "/predictions/{model_name}", "/predictions/{model_name}/{model_version}"
        why, why_exact = "/explanations/{model_name}", "/explanations/{model_name}/{model_version}"
        v2_exact = "/v2/models/{model_name}/versions/{model_version}/infer"
        for path, endpoint, operation_id in (
            (one, self.predict, "predictions"),
            (exact, self.predict_version, "version_predictions"),
            (exact + "/{url_path:path}", self.predict_path, "path_predictions"),
            (why, self.explain, "explanations"),
            (why_exact, self.explain_version, "version_explanations"),
            ("/v1/models/{model_name}:predict", self.kserve_predict, "v1_predict"),
            ("/v1/models/{model_name}:explain", self.kserve_explain, "v1_explain"),
            ("/v2/models/{model_name}/infer", self.kserve_predict, "v2_infer"),
            (v2_exact, self.kserve_predict_version, "v2_version_infer"),
            ("/v2/models/{model_name}/explain", self.kserve_explain, "v2_explain"),
            ("/invocations", self.invoke, "invocations"),
            ("/models/{model_name}/invoke", self.invoke_model, "invoke"),
            ("/{model_name}/predict", self.predict_query, "legacy_predict"),
            ("/{model_name}/{model_version}/predict", self.predict_query, "legacy_version_predict"),
        ):
            router.add_api_route(path, endpoint, methods=["POST"], operation_id=operation_id)
            router.add_api_route(path, endpoint, methods=_METHODS, include_in_schema=False)
            if "{model_name}" in path:
                router.add_api_route(
                    path, self.describe_routes, methods=["OPTIONS"], include_in_schema=False
                )
        return router

    async def predict(self, model_name: str, request: Request) -> Response:
        """Answer one request with the model's default version."""
        return await self._answer(request, Call(model=model_name, url_path="", explain=False))

    async def predict_version(
        self, model_name: str, model_version: str, request: Request
    ) -> Response:
        """Answer one request with exactly this version."""
        return await self.predict_path(model_name, model_version, "", request)

    async def predict_path(
        self, model_name: str, model_version: str, url_path: str, request: Request
    ) -> Response:
        """The same, with the rest of the path for the handler to read."""
        call = Call(model=model_name, version=model_version, url_path=url_path, explain=False)
        return await self._answer(request, call)

    async def explain(self, model_name: str, request: Request) -> Response:
        """Explain the default version's answer to one request."""
        return await self._answer(request, Call(model=model_name, url_path="", explain=True))

    async def explain_version(
        self, model_name: str, model_version: str, request: Request
    ) -> Response:
        """Explain exactly this version's answer to one request."""
        call = Call(model=model_name, version=model_version, url_path="", explain=True)
        return await self._answer(request, call)

    async def kserve_predict(self, model_name: str, request: Request) -> Response:
        """Answer one request as KServe's clients ask."""
        return await self._answer(request, Call(model=model_name, explain=False))

    async def kserve_predict_version(
        self, model_name: str, model_version: str, request: Request
    ) -> Response:
        """The same, with exactly this version."""
        call = Call(model=model_name, version=model_version, explain=False)
        return await self._answer(request, call)

    async def kserve_explain(self, model_name: str, request: Request) -> Response:
        """Explain one answer as KServe's clients ask."""
        return await self._answer(request, Call(model=model_name, explain=True))

    async def invoke_model(self, model_name: str, request: Request) -> Response:
        """Answer one request as SageMaker asks for one of several models."""
        return await self._answer(request, Call(model=model_name))

    async def predict_query(
        self, model_name: str, request: Request, model_version: str | None = None
    ) -> Response:
        """Answer one request; the values of the query are inputs, too."""
        return await self._answer(
            request, Call(model=model_name, version=model_version, query_is_input=True)
        )

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

    async def describe_routes(self, model_name: str, model_version: str | None = None) -> Response:
        """One model's OpenAPI document."""
        self._registry.resolve(model_name, model_version)
        return PrettyJSON(describe_model(model_name))

    async def _answer(self, request: Request, call: Call) -> Response:
        self._registry.resolve(call.model, call.version)  # refused before its body is read
        return await self._run(request, call, await self._inputs(request))

    async def _inputs(self, request: Request) -> list[Input]:
        body = await read_body(request, max_bytes=self._max_request_bytes)
        return split_inputs(body, content_type=request.headers.get("content-type"))

    async def _run(self, request: Request, call: Call, inputs: list[Input]) -> Response:
        if call.query_is_input:
            inputs = [*_query_inputs(request), *inputs]
        client = (
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw
        )
        inference = InferenceRequest(
            request_id=request.state.request_id,
            headers=handler_headers(client, url_path=call.url_path, explain=call.explain),
            inputs=inputs,
        )
        version = self._registry.resolve(call.model, call.version)
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
