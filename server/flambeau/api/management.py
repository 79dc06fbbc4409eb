"""The management listener's routes: register, deploy, scale, describe, list, set default, remove.

HTTP only: what the routes do is in `operations.py`, which gRPC shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse

from flambeau.api.auth import ManagementRoute, note_arguments, note_outcome
from flambeau.api.body import BodyLimit, read_body
from flambeau.api.openapi import PARAMETERS, document_of
from flambeau.api.operations import Answer, Operations
from flambeau.api.pages import page_check
from flambeau.api.parameters import Parameters
from flambeau.api.responses import PrettyJSON
from flambeau.deployment import DeployEvent

_MAX_JSON_BYTES = 1 << 20
_ONE = "/models/{model_name}"


def management_router(operations: Operations, *, allowed_origin: str = "") -> APIRouter:
    """The table of routes; operation ids are TorchServe's, and `deployModel` is ours.

    Args:
        operations: What they do.
        allowed_origin: Whose pages in browsers may change things.
    """
    router = APIRouter(
        route_class=ManagementRoute, dependencies=[Depends(page_check(allowed_origin))]
    )
    routes = _Routes(operations)
    one, version = _ONE, _ONE + "/{model_version}"
    for method, path, endpoint, operation_id in (
        ("POST", "/models", routes.register, "registerModel"),
        ("GET", "/models", routes.list_models, "listModels"),
        ("POST", one + "/deploy", routes.deploy, "deployModel"),
        ("GET", one, routes.describe, "describeModel"),
        ("PUT", one, routes.scale, "setAutoScale"),
        ("DELETE", one, routes.unregister, "unregisterModel"),
        ("GET", version, routes.describe_version, "version_describeModel"),
        ("PUT", version, routes.scale_version, "version_setAutoScale"),
        ("DELETE", version, routes.unregister_version, "version_unregisterModel"),
        ("PUT", version + "/set-default", routes.set_default, "setDefault"),
        ("GET", "/v1/models/{model_name}", routes.readiness, "modelReady"),
    ):
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            operation_id=operation_id,
            openapi_extra={"parameters": PARAMETERS.get(operation_id, [])},
        )
    for path in (one, version):
        router.add_api_route(
            path, routes.describe_routes, methods=["OPTIONS"], include_in_schema=False
        )
    return router


class _Routes:
    """One method per route: read the arguments, run the operation, write its answer."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def register(self, request: Request) -> Response:
        """Register an archive, and start its workers."""
        return _response(await self._operations.register(await arguments_of(request)))

    async def deploy(self, model_name: str, request: Request) -> Response:
        """Register, warm up, check, make default and drain the old: one event per line.

        The last line's `step` is `done` or `failed`; the status is 200 once the first line is out.
        """
        events = await self._operations.deploy(await arguments_of(request), model_name)
        return StreamingResponse(_lines(events, request), media_type="application/x-ndjson")

    async def list_models(self, request: Request) -> Response:
        """Names and archives of the default versions, in pages."""
        return _response(self._operations.list_models(_query(request)))

    async def describe(self, model_name: str, request: Request) -> Response:
        """The default version, as an array of one."""
        return _response(await self._operations.describe(_query(request), model_name))

    async def describe_version(
        self, model_name: str, model_version: str, request: Request
    ) -> Response:
        """One version, or with `all` every version."""
        return _response(
            await self._operations.describe(_query(request), model_name, model_version)
        )

    async def scale(self, model_name: str, request: Request) -> Response:
        """Change the number of workers of the default version."""
        arguments = (await arguments_of(request)).over(_query(request))
        return _response(await self._operations.scale(arguments, model_name, None))

    async def scale_version(
        self, model_name: str, model_version: str, request: Request
    ) -> Response:
        """Change the number of workers of one version."""
        arguments = (await arguments_of(request)).over(_query(request))
        return _response(await self._operations.scale(arguments, model_name, model_version))

    async def set_default(self, model_name: str, model_version: str) -> Response:
        """Let this version answer by default, from the next request on."""
        return _response(await self._operations.set_default(model_name, model_version))

    async def unregister(self, model_name: str) -> Response:
        """Remove the default version; drained first."""
        return _response(await self._operations.unregister(model_name))

    async def unregister_version(self, model_name: str, model_version: str) -> Response:
        """Remove one version; drained first."""
        return _response(await self._operations.unregister(model_name, model_version))

    async def readiness(self, model_name: str) -> Response:
        """KServe's readiness of a model: whether a worker of its default version is ready."""
        return _response(self._operations.readiness(model_name))

    async def describe_routes(
        self, model_name: str, request: Request, model_version: str | None = None
    ) -> Response:
        """What this port's OpenAPI document says of models, under one model's title."""
        self._operations.check_model(model_name, model_version)
        document = document_of(request.app)
        about = {path: item for path, item in document["paths"].items() if path.startswith(_ONE)}
        info = {"title": f"RESTful Management API for: {model_name}", "version": "1.0.0"}
        return PrettyJSON(document | {"info": info, "paths": about})


def _response(answer: Answer) -> Response:
    return PrettyJSON(answer.document, status_code=answer.code)


def _query(request: Request) -> Parameters:
    return Parameters(dict(request.query_params))


async def arguments_of(request: Request) -> Parameters:
    """The JSON body when there is one, else the query; as in TorchServe, one of them counts.

    Raises:
        BadParameter: The body is not a JSON object.
        BodyTooLarge: Over 1 MiB.
    """
    body = await read_body(request, BodyLimit(_MAX_JSON_BYTES))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind == "application/json":
        parameters = Parameters.from_json(bytes(body))
        note_arguments(request, parameters.values)
        return parameters
    return _query(request)


async def _lines(events: asyncio.Queue[DeployEvent], request: Request) -> AsyncIterator[bytes]:
    while True:
        event = await events.get()
        note_outcome(request, event.step.value)
        yield msgspec.json.encode(event) + b"\n"
        if event.is_last:
            return
