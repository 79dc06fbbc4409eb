"""What the management API does, apart from how it is spoken: HTTP and gRPC call the same methods.

Each takes `Parameters` and returns a status with a document, or raises one of our errors. Texts and
statuses are TorchServe's; `deploy` is ours.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, NoReturn, TypeVar

from flambeau.api.describe import describe_version
from flambeau.api.parameters import Parameters
from flambeau.api.responses import METHOD_TEXT
from flambeau.deployment import DeployEvent
from flambeau.errors import (
    ArchiveError,
    BadParameter,
    DeadlineExceeded,
    LoadFailed,
    MethodNotAllowed,
    NoWorker,
    OutOfResources,
    RequestError,
    WorkerError,
)
from flambeau.gpu_usage import read_gpu_usage
from flambeau.manifest import RUNTIMES
from flambeau.messages import InferenceRequest
from flambeau.model_name import check_model_name
from flambeau.model_settings import ModelSettings
from flambeau.model_version import ModelVersion, VersionState
from flambeau.packages import PackageLoader
from flambeau.registry import Registration, Registry
from flambeau.worker_slot import WorkerState

_T = TypeVar("_T")
_PAGE = 100
_ABSENT = -(1 << 40)  # less than any number that can be given
_UNSET = -1  # what TorchServe's clients send for a number they do not mean
_WORKING = "Processing worker updates..."
_PARTIAL = "Workers scaling in progress..."


class Answer(NamedTuple):
    """An HTTP status and a JSON document."""

    code: int
    document: object

    @property
    def text(self) -> str:
        """The sentence of a `{"status": ...}` document; else the document as JSON."""
        if isinstance(self.document, dict) and set(self.document) == {"status"}:
            return str(self.document["status"])
        return json.dumps(self.document, indent=2, ensure_ascii=False)


class Operations:
    """What can be done to one server's models."""

    def __init__(
        self,
        registry: Registry,
        packages: PackageLoader,
        *,
        enable_model_api: bool,
        default_workers: int,
        unregister_timeout_s: float = 120.0,
    ) -> None:
        """Operations over one registry.

        Args:
            registry: What is served.
            packages: Opens archives.
            enable_model_api: Whether models may be registered, deployed and removed.
            default_workers: `initial_workers` of a registration that names none.
            unregister_timeout_s: How long the caller of a removal waits for its end.
        """
        self._registry = registry
        self._packages = packages
        self._enable_model_api = enable_model_api
        self._default_workers = default_workers
        self._unregister_timeout_s = unregister_timeout_s

    async def register(self, parameters: Parameters) -> Answer:
        """Register an archive and start its workers.

        Raises:
            MethodNotAllowed: The model API is off.
            BadParameter: A parameter is missing or wrong.
            ModelNotFound, ArchiveError: The archive is missing or unusable.
            Conflict: This version of this model exists.
            LoadFailed, OutOfResources: Not every worker became ready; the model is gone again.
            StateNotSaved: It cannot be remembered; the model is gone again.
        """
        entry = await self._registration(
            parameters,
            model=parameters.text("model_name"),
            default_workers=self._default_workers,
        )
        version = await self._or_discard(entry, lambda: self._registry.register(entry))
        count = entry.settings.min_workers
        prefix = f'Model "{version.model}" Version: {version.version} registered with {count}'
        waits = count > 0 and parameters.flag("synchronous", default=True)
        if not waits:
            await self._registry.remember(version)
        if count == 0:
            return _status(
                f"{prefix} initial workers. Use scale workers API to add workers for the model."
            )
        if not waits:
            return _status(_WORKING, code=202)
        try:
            await self._registry.wait_loaded(version)
        except WorkerError as error:
            _raise_start_failed(error, version)
        if _num_ready(version) < count:
            return _status(_PARTIAL, code=206)
        return _status(f"{prefix} initial workers")

    async def deploy(self, parameters: Parameters, model: str) -> asyncio.Queue[DeployEvent]:
        """Start a deployment; returns where its events come, the last one `is_last`.

        Raises:
            MethodNotAllowed, BadParameter, ModelNotFound, ArchiveError, Conflict: As `register`.
        """
        entry = await self._registration(parameters, model=model, default_workers=0)
        events: asyncio.Queue[DeployEvent] = asyncio.Queue()
        await self._or_discard(
            entry, lambda: self._registry.deploy(entry, on_event=events.put_nowait)
        )
        return events

    async def scale(self, parameters: Parameters, model: str, number: str | None) -> Answer:
        """Change the number of workers of a version; the default one when `number` is None.

        Raises:
            ModelNotFound, ModelVersionNotFound: No such entry.
            BadParameter: Counts that make no sense.
            LoadFailed, OutOfResources: A new worker did not become ready; the others stay.
            StateNotSaved: The counts cannot be remembered; nothing has changed.
        """
        number = number or parameters.text("model_version") or None
        version = self._registry.resolve(model, number)
        low = parameters.number("min_worker", 1)
        high = parameters.number("max_worker", low)
        version.settings.with_workers(low, high)  # refuses wrong counts before anything changes
        scaling = await self._registry.scale(version, low, high)
        if not parameters.flag("synchronous", default=False):
            return _status(_WORKING, code=202)
        try:
            await asyncio.shield(scaling)
        except WorkerError as error:
            _raise_start_failed(error, version)
        if _num_ready(version) < low:
            return _status(_PARTIAL, code=206)
        suffix = f", version: {number}" if number else ""
        return _status(f"Workers scaled to {low} for model: {model}{suffix}")

    async def describe(
        self, parameters: Parameters, model: str, number: str | None = None
    ) -> Answer:
        """One version, or with `all` every version, always as an array.

        With `customized=true` a worker is asked, too, for what its handler says of itself.

        Raises:
            ModelNotFound, ModelVersionNotFound: No such entry.
            NoWorker: Nobody can be asked.
            WorkerError: The handler fails.
        """
        if number == "all":
            versions = self._registry.versions(model)
            extra: dict[str, object] = {}
        else:
            version = self._registry.resolve(model, number)
            versions = [version]
            customized = parameters.flag("customized", default=False)
            extra = {"customizedMetadata": await _ask_handler(version)} if customized else {}
        on_gpu = any(slot.spec.load.device != "cpu" for v in versions for slot in v.slots)
        gpu_usage = await read_gpu_usage() if on_gpu else {}
        return Answer(
            200, [describe_version(each, gpu_usage=gpu_usage) | extra for each in versions]
        )

    def list_models(self, parameters: Parameters) -> Answer:
        """Names and archives of the default versions, in pages of `limit`, 1 to 100."""
        size = parameters.number("limit", _PAGE)
        size = size if 1 <= size <= _PAGE else _PAGE
        start = max(0, parameters.number("next_page_token", 0))
        versions = self._registry.listed()
        page = [{"modelName": v.model, "modelUrl": v.package.url} for v in versions[start:][:size]]
        more = {"nextPageToken": str(start + size)} if start + size < len(versions) else {}
        return Answer(200, more | {"models": page})

    async def set_default(self, model: str, number: str) -> Answer:
        """Let this version answer by default, from the next request on.

        Raises:
            ModelNotFound, ModelVersionNotFound: No such entry.
            Conflict: The version is not ready.
            StateNotSaved: The choice cannot be remembered; the default stays.
        """
        await self._registry.set_default(model, number)
        return _status(f'Default version successfully updated for model "{model}" to "{number}"')

    async def unregister(self, model: str, number: str | None = None) -> Answer:
        """Drain a version and remove it; the default one when `number` is None.

        Raises:
            MethodNotAllowed: The model API is off.
            ModelNotFound, ModelVersionNotFound: No such entry.
            DefaultVersionInUse: It is the default while others exist.
            StateNotSaved: The removal cannot be remembered; the version stays.
            DeadlineExceeded: It takes longer than the caller may wait, and goes on.
        """
        self._check_model_api()
        removal = asyncio.ensure_future(self._registry.unregister(model, number))
        done, _ = await asyncio.wait({removal}, timeout=self._unregister_timeout_s)
        if not done:
            raise DeadlineExceeded(f"Timed out while cleaning resources: {model}")
        removal.result()
        return _status(f'Model "{model}" unregistered')

    def readiness(self, model: str) -> Answer:
        """KServe's question: whether a worker of the default version is ready.

        Raises:
            ModelNotFound: No such model.
        """
        ready = self._registry.resolve(model).state is VersionState.READY
        return Answer(200, {"name": model, "ready": ready})

    def check_model(self, model: str, number: str | None = None) -> None:
        """Raises ModelNotFound or ModelVersionNotFound when there is no such entry."""
        self._registry.resolve(model, number)

    async def _registration(
        self, parameters: Parameters, *, model: str | None, default_workers: int
    ) -> Registration:
        """What the parameters ask for, with its archive unpacked."""
        self._check_model_api()
        url = parameters.text("url")
        if url is None:
            raise BadParameter("Parameter url is required.")
        if model:
            check_model_name(model)
        runtime = _runtime(parameters)
        handler = parameters.text("handler") or None
        package, wishes = await self._packages.load(
            url,
            handler=handler,
            model=model,
            s3_sse_kms=parameters.flag("s3_sse_kms", default=False),
            sha256=parameters.text("sha256") or None,
        )
        try:
            settings = _settings(wishes, parameters, default_workers=default_workers)
        except BadParameter:
            await self._packages.discard(package)
            raise
        if runtime is not None:
            package = replace(package, manifest=replace(package.manifest, runtime=runtime))
        return Registration(package=package, settings=settings, model=model)

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


def _status(text: str, *, code: int = 200) -> Answer:
    return Answer(code, {"status": text})


def _num_ready(version: ModelVersion) -> int:
    return sum(slot.state is WorkerState.READY for slot in version.slots)


def _runtime(parameters: Parameters) -> str | None:
    runtime = parameters.text("runtime") or None
    if runtime is not None and runtime not in RUNTIMES:
        raise BadParameter(f"Invalid RuntimeType value: {runtime}")
    if runtime == "LSP":
        raise ArchiveError(
            "runtime LSP (TorchServe's C++ backend) is not supported; leave `runtime` away"
        )
    return runtime


def _settings(
    settings: ModelSettings, parameters: Parameters, *, default_workers: int
) -> ModelSettings:
    """Explicit parameters over the archive's wishes over the server's defaults."""
    wanted = parameters.number("initial_workers", _ABSENT)
    if wanted != _ABSENT:
        settings = settings.with_workers(max(0, wanted))
    elif settings.min_workers == 0:
        settings = settings.with_workers(default_workers)
    return replace(
        settings,
        batch_size=parameters.number("batch_size", settings.batch_size),
        max_batch_delay_ms=parameters.number("max_batch_delay", settings.max_batch_delay_ms),
        response_timeout_s=_seconds(parameters, "response_timeout", settings.response_timeout_s),
        startup_timeout_s=_seconds(parameters, "startup_timeout", settings.startup_timeout_s),
    )


def _seconds(parameters: Parameters, name: str, default: float) -> float:
    given = parameters.number(name, _UNSET)
    return default if given == _UNSET else given


def _raise_start_failed(error: WorkerError, version: ModelVersion) -> NoReturn:
    """TorchServe's sentence; the cause travels beside it as `reason`."""
    kind = OutOfResources if isinstance(error, OutOfResources) else LoadFailed
    raise kind(
        f"Failed to start workers for model {version.model} version: {version.version}"
    ) from error


async def _ask_handler(version: ModelVersion) -> object:
    """The handler's own description, from one worker; an empty one when it is no JSON.

    Raises:
        NoWorker: None is ready or on its way.
        WorkerError: The handler fails.
    """
    request = InferenceRequest(
        request_id=str(uuid.uuid4()),
        headers=[("url_path", ""), ("explain", "False"), ("describe", "True")],
        inputs=[],
    )
    try:
        reply = await version.submit(request).reply
    except NoWorker as error:
        raise NoWorker(
            f'Model "{version.model}" has no worker to serve describe request. '
            "Please use scale workers API to add workers."
        ) from error
    except (WorkerError, RequestError) as error:
        # TorchServe's text, its spelling included
        raise WorkerError("Failed to get customized model matadata.") from error
    try:
        return json.loads(bytes(reply.body), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {}  # as TorchServe says it: the handler did not mean to describe anything


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
