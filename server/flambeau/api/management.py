"""The management listener's routes: register, deploy, scale, describe, list, set default, remove.

Paths, parameters, statuses and texts are TorchServe's; `deploy` is ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from flambeau.api.body import read_body
from flambeau.api.describe import describe_version
from flambeau.api.responses import METHOD_TEXT, PrettyJSON, status_message
from flambeau.deployment import DeployEvent
from flambeau.errors import BadParameter, LoadFailed, MethodNotAllowed, OutOfResources, WorkerError
from flambeau.model_settings import ModelSettings
from flambeau.model_version import ModelVersion
from flambeau.packages import PackageLoader
from flambeau.registry import Registration, Registry

_T = TypeVar("_T")
_MAX_JSON_BYTES = 1 << 20
_PAGE = 100


class ManagementAPI:
    """Routes that change and show what is served."""

    def __init__(
        self,
        registry: Registry,
        packages: PackageLoader,
        *,
        enable_model_api: bool,
        default_workers: int,
    ) -> None:
        """Routes over one registry.

        Args:
            registry: What is served.
            packages: Opens archives.
            enable_model_api: Whether models may be registered, deployed and removed.
            default_workers: `initial_workers` of a registration that names none.
        """
        self._registry = registry
        self._packages = packages
        self._enable_model_api = enable_model_api
        self._default_workers = default_workers

    def router(self) -> APIRouter:
        """The table of routes; operation ids are TorchServe's."""
        router = APIRouter()
        one, version = "/models/{model_name}", "/models/{model_name}/{model_version}"
        for method, path, endpoint, operation_id in (
            ("POST", "/models", self.register, "registerModel"),
            ("GET", "/models", self.list_models, "listModels"),
            ("POST", one + "/deploy", self.deploy, "deployModel"),
            ("GET", one, self.describe, "describeModel"),
            ("PUT", one, self.scale, "setAutoScale"),
            ("DELETE", one, self.unregister, "unregisterModel"),
            ("GET", version, self.describe_version, "version_describeModel"),
            ("PUT", version, self.scale_version, "version_setAutoScale"),
            ("DELETE", version, self.unregister_version, "version_unregisterModel"),
            ("PUT", version + "/set-default", self.set_default, "setDefault"),
        ):
            router.add_api_route(path, endpoint, methods=[method], operation_id=operation_id)
        for path in (one, version):
            router.add_api_route(
                path, self.describe_routes, methods=["OPTIONS"], include_in_schema=False
            )
        return router

    async def register(self, request: Request) -> Response:
        """Register an archive of the store, and start its workers."""
        parameters = await Parameters.read(request)
        entry = await self._registration(
            parameters, model=parameters.text("model_name"), default_workers=self._default_workers
        )
        version = await self._or_discard(entry, lambda: self._registry.register(entry))
        count = entry.settings.min_workers
        prefix = f'Model "{version.model}" Version: {version.version} registered with {count}'
        if count == 0:
            return status_message(
                f"{prefix} initial workers. Use scale workers API to add workers for the model."
            )
        if not parameters.flag("synchronous", default=True):
            return status_message("Processing worker updates...", code=202)
        try:
            await self._registry.wait_loaded(version)
        except WorkerError as error:
            raise _start_failed(error, version) from error
        return status_message(f"{prefix} initial workers")

    async def deploy(self, model_name: str, request: Request) -> Response:
        """Register, warm up, check, make default and drain the old: one event per line.

        The last line's `step` is `done` or `failed`; the status is 200 once the first line is out.
        """
        parameters = await Parameters.read(request)
        entry = await self._registration(parameters, model=model_name, default_workers=0)
        events: asyncio.Queue[DeployEvent] = asyncio.Queue()
        await self._or_discard(
            entry, lambda: self._registry.deploy(entry, on_event=events.put_nowait)
        )
        return StreamingResponse(_lines(events), media_type="application/x-ndjson")

    async def list_models(self, limit: str = "", next_page_token: str = "") -> Response:
        """Names and archives of the default versions, in pages."""
        size = _int_or(limit, _PAGE)
        size = size if 0 <= size <= _PAGE else _PAGE
        start = max(0, _int_or(next_page_token, 0))
        versions = self._registry.defaults()
        page = [{"modelName": v.model, "modelUrl": v.package.url} for v in versions[start:][:size]]
        more = {"nextPageToken": str(start + size)} if start + size < len(versions) else {}
        return PrettyJSON(more | {"models": page})

    async def describe(self, model_name: str) -> Response:
        """The default version, as an array of one."""
        return PrettyJSON([describe_version(self._registry.resolve(model_name))])

    async def describe_version(self, model_name: str, model_version: str) -> Response:
        """One version, or with `all` every version."""
        if model_version == "all":
            return PrettyJSON(
                [describe_version(found) for found in self._registry.versions(model_name)]
            )
        return PrettyJSON([describe_version(self._registry.resolve(model_name, model_version))])

    async def scale(self, model_name: str, request: Request) -> Response:
        """Change the number of workers of the default version."""
        parameters = await Parameters.read(request)
        return await self._scale(parameters, model_name, parameters.text("model_version"))

    async def scale_version(
        self, model_name: str, model_version: str, request: Request
    ) -> Response:
        """Change the number of workers of one version."""
        return await self._scale(await Parameters.read(request), model_name, model_version)

    async def set_default(self, model_name: str, model_version: str) -> Response:
        """Let this version answer by default, from the next request on."""
        self._registry.set_default(model_name, model_version)
        return status_message(
            f'Default version successfully updated for model "{model_name}" to "{model_version}"'
        )

    async def unregister(self, model_name: str) -> Response:
        """Remove the default version; drained first."""
        return await self._unregister(model_name, None)

    async def unregister_version(self, model_name: str, model_version: str) -> Response:
        """Remove one version; drained first."""
        return await self._unregister(model_name, model_version)

    async def describe_routes(self, model_name: str, request: Request) -> Response:
        """This port's OpenAPI document under one model's title."""
        self._registry.resolve(model_name)
        document = request.app.openapi()
        title = {"title": f"RESTful Management API for: {model_name}", "version": "1.0.0"}
        return PrettyJSON(document | {"info": title})

    async def _registration(
        self, parameters: Parameters, *, model: str | None, default_workers: int
    ) -> Registration:
        """What the parameters ask for, with its archive unpacked.

        Raises:
            MethodNotAllowed: The model API is off.
            BadParameter: A parameter is missing or wrong.
            ModelNotFound, ArchiveError: The archive is missing or unusable.
        """
        self._check_model_api()
        url = parameters.text("url")
        if url is None:
            raise BadParameter("Parameter url is required.")
        runtime = parameters.text("runtime")
        if runtime not in {None, "python", "python3"}:
            raise BadParameter(f"Invalid RuntimeType value: {runtime}")
        package, wishes = await self._packages.load(url, handler=parameters.text("handler"))
        try:
            settings = _settings(wishes, parameters, default_workers=default_workers)
        except BadParameter:
            await self._packages.discard(package)
            raise
        return Registration(package=package, settings=settings, model=model)

    async def _scale(self, parameters: Parameters, model: str, number: str | None) -> Response:
        version = self._registry.resolve(model, number)
        low = parameters.number("min_worker", 1)
        high = parameters.number("max_worker", low)
        version.settings.with_workers(low, high)  # refuses wrong counts before anything changes
        scaling = self._registry.scale(version, low, high)
        if not parameters.flag("synchronous", default=False):
            return status_message("Processing worker updates...", code=202)
        try:
            await asyncio.shield(scaling)
        except WorkerError as error:
            raise _start_failed(error, version) from error
        suffix = f", version: {number}" if number else ""
        return status_message(f"Workers scaled to {low} for model: {model}{suffix}")

    async def _unregister(self, model: str, number: str | None) -> Response:
        self._check_model_api()
        await self._registry.unregister(model, number)
        return status_message(f'Model "{model}" unregistered')

    def _check_model_api(self) -> None:
        if not self._enable_model_api:
            raise MethodNotAllowed(METHOD_TEXT)

    async def _or_discard(self, entry: Registration, step: Callable[[], _T]) -> _T:
        """Run a step that takes the package over; clean up when it refuses."""
        try:
            return step()
        except BaseException:
            await self._packages.discard(entry.package)
            raise


class Parameters:
    """A management call's arguments: the query, or a JSON body instead."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @classmethod
    async def read(cls, request: Request) -> Parameters:
        """Read them as TorchServe does: with a JSON content type the query does not count.

        Raises:
            BadParameter: The body is not a JSON object.
        """
        body = await read_body(request, max_bytes=_MAX_JSON_BYTES)
        if not request.headers.get("content-type", "").startswith("application/json"):
            return cls(dict(request.query_params))
        try:
            document = json.loads(bytes(body) or b"{}")
        except (ValueError, RecursionError) as error:
            raise BadParameter(f"the JSON body cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise BadParameter('the JSON body is not an object; give {"url": ...}')
        return cls(document)

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return None if value is None else str(value)

    def number(self, name: str, default: int) -> int:
        """An integer; anything else falls back to the default, as in TorchServe."""
        return _int_or(str(self._values.get(name, "")), default)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._values.get(name)
        return default if value is None else str(value).lower() == "true"


def _settings(
    settings: ModelSettings, parameters: Parameters, *, default_workers: int
) -> ModelSettings:
    """Explicit parameters over the archive's wishes over the server's defaults."""
    if parameters.text("initial_workers") is not None:
        workers = max(0, parameters.number("initial_workers", 0))
        settings = settings.with_workers(workers)
    elif settings.min_workers == 0:
        settings = settings.with_workers(default_workers)
    return replace(
        settings,
        batch_size=parameters.number("batch_size", settings.batch_size),
        max_batch_delay_ms=parameters.number("max_batch_delay", settings.max_batch_delay_ms),
        response_timeout_s=parameters.number("response_timeout", 0) or settings.response_timeout_s,
        startup_timeout_s=parameters.number("startup_timeout", 0) or settings.startup_timeout_s,
    )


async def _lines(events: asyncio.Queue[DeployEvent]) -> AsyncIterator[bytes]:
    while True:
        event = await events.get()
        yield msgspec.json.encode(event) + b"\n"
        if event.is_last:
            return


def _start_failed(error: WorkerError, version: ModelVersion) -> WorkerError:
    """TorchServe's sentence; the cause travels beside it as `reason`."""
    kind = OutOfResources if isinstance(error, OutOfResources) else LoadFailed
    return kind(f"Failed to start workers for model {version.model} version: {version.version}")


def _int_or(text: str, default: int) -> int:
    try:
        return int(text)
    except ValueError:
        return default
