"""Which models and versions there are, and which version answers by default.

All changes to the table happen in one event-loop step each, between awaits; a request is routed and
queued in one step too (`resolve(...).submit(...)`), so a swap can neither lose nor misroute it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flambeau.deployment import DeployEvent, DeployStep
from flambeau.desired import Desired
from flambeau.errors import (
    BadParameter,
    Conflict,
    DefaultVersionInUse,
    FlambeauError,
    ModelNotFound,
    ModelVersionNotFound,
    NoWorker,
    StateNotSaved,
    WorkerError,
)
from flambeau.memory import Memory, record_of
from flambeau.messages import LoadStage
from flambeau.metrics import Metrics, VersionGauges
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host, ModelVersion, Package, VersionState
from flambeau.state import Operation

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(slots=True)
class _Model:
    default: str
    versions: dict[str, ModelVersion] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """A request to register one version.

    Attributes:
        package: The unpacked archive.
        settings: What the new version runs with.
        model: Its name; None takes the manifest's.
    """

    package: Package
    settings: ModelSettings
    model: str | None = None


class Registry:
    """Owner of the table from names to versions."""

    def __init__(
        self,
        *,
        host: Host,
        metrics: Metrics,
        drain_timeout_s: float,
        discard: Callable[[Package], Awaitable[None]],
        memory: Memory | None = None,
    ) -> None:
        """Start empty.

        Args:
            host: What all versions share.
            metrics: Where versions count.
            drain_timeout_s: How long a removed version's requests may take to finish.
            discard: Deletes a package's unpacked files once its version is closed.
            memory: What survives a crash; None for nothing.
        """
        # for the life of the server
        self._host = host
        self._metrics = metrics
        self._drain_timeout_s = drain_timeout_s
        self._discard = discard
        self._memory = memory or Memory()
        # held while a change is written down and then made
        self._changing = asyncio.Lock()
        # by name
        self._models: dict[str, _Model] = {}
        # deployments and removals that go on whoever asked for them
        self._background: set[asyncio.Task[Any]] = set()
        self._draining: set[asyncio.Task[int]] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        # readiness
        self._starting = True
        self._accepting = True
        self._startup_failures: dict[str, str] = {}
        # called after each change of versions, workers or defaults
        self.on_change: Callable[[], None] = lambda: None
        metrics.watch(versions=self._gauges, ready=lambda: self.is_ready)

    # reading

    def resolve(self, model: str, version: str | None = None) -> ModelVersion:
        """The version that answers for `model`; the default one when `version` is None.

        Raises:
            ModelNotFound, ModelVersionNotFound: No such entry.
        """
        entry = self._entry(model)
        found = entry.versions.get(entry.default if version is None else version)
        if found is None:
            raise ModelVersionNotFound(
                f"Model version: {version} does not exist for model: {model}"
            )
        return found

    def versions(self, model: str) -> list[ModelVersion]:
        """All versions of a model, oldest registration first.

        Raises:
            ModelNotFound: No such model.
        """
        return list(self._entry(model).versions.values())

    def defaults(self) -> list[ModelVersion]:
        """Each model's default version, sorted by the model's name."""
        return [entry.versions[entry.default] for _, entry in sorted(self._models.items())]

    def listed(self) -> list[ModelVersion]:
        """The defaults without those that are only parts of something else."""
        return [version for version in self.defaults() if not version.package.is_part]

    @property
    def is_ready(self) -> bool:
        """Whether everything that should be served is, and the server is not stopping."""
        return not self.not_ready_reasons()

    def not_ready_reasons(self) -> list[str]:
        """What `is_ready` is waiting for, for people."""
        reasons = [] if self._accepting else ["the server is stopping"]
        reasons += ["models are being unpacked"] if self._starting else []
        reasons += [self._memory.lost] if self._memory.lost else []
        reasons += [f"{url} is not served: {why}" for url, why in self._startup_failures.items()]
        for version in self.defaults():
            if version.state is not VersionState.READY and version.settings.min_workers > 0:
                detail = f": {version.reason}" if version.reason else ""
                reasons.append(
                    f"model {version.model} version {version.version} is "
                    f"{version.state.value}{detail}"
                )
        return reasons

    @property
    def is_healthy(self) -> bool:
        """TorchServe's `/ping`: no default version has given up on workers it should have."""
        return all(version.is_healthy for version in self.defaults())

    # changing

    def register(
        self,
        registration: Registration,
        *,
        on_stage: Callable[[LoadStage], None] = lambda _: None,
    ) -> ModelVersion:
        """Enter a version and start its workers, without waiting for them.

        The first version of a model is its default.

        Raises:
            BadParameter: Neither the registration nor the manifest gives a name.
            Conflict: This version of this model exists, or the server is stopping.
        """
        package = registration.package
        model = registration.model or package.manifest.model_name
        if model is None:
            raise BadParameter("Model name is not defined.")  # TorchServe's text
        number = package.manifest.model_version
        if not self._accepting:
            raise Conflict(f"Model {model} cannot be registered: the server is stopping")
        entry = self._models.get(model)
        if entry is not None and number in entry.versions:
            raise Conflict(f"Model version {number} is already registered for model {model}")
        version = ModelVersion(
            package,
            model=model,
            version=number,
            settings=registration.settings,
            host=self._host,
            metrics=self._metrics.version(model=model, version=number),
        )
        if entry is None:
            entry = self._models[model] = _Model(default=number)
        entry.versions[number] = version
        self._startup_failures.pop(package.url, None)
        version.on_stage = on_stage
        version.start_scaling(registration.settings.min_workers, registration.settings.max_workers)
        _log.info("model registered", extra={"model": model, "version": number})
        self.on_change()
        return version

    async def wait_loaded(self, version: ModelVersion) -> None:
        """Wait for a registered version's workers, and remember it; else take it out again.

        Raises:
            LoadFailed, OutOfResources, WorkerTimeout, WorkerDied: Why it cannot serve.
            StateNotSaved: It cannot be remembered.
        """
        try:
            await version.wait_workers()
        except WorkerError:
            await self._change(self._forget(version))
            await self._remove(version)
            raise
        await self.remember(version)

    async def remember(self, version: ModelVersion) -> None:
        """Write a registered version down, before its client is told; else take it out again.

        Raises:
            StateNotSaved: It cannot be written.
        """
        if not version.package.is_part:
            await self._change(self._remember(version))

    async def _remember(self, version: ModelVersion) -> None:
        try:
            async with self._changing:
                if self._is_gone(version):
                    raise Conflict(
                        f"version {version.version} of model {version.model} was removed meanwhile"
                    )
                await self._memory.commit(
                    Operation(name="register", model=version.model, version=version.version),
                    lambda desired: desired.with_version(record_of(version)),
                )
        except StateNotSaved:
            await self._remove(version)
            raise

    async def _forget(self, version: ModelVersion) -> None:
        """Take back what was remembered of a version that has failed, if anything was."""
        model, number = version.model, version.version
        async with self._changing:
            if self._memory.desired.version(model, number) is None or self._is_gone(version):
                return
            try:
                await self._memory.commit(
                    Operation(name="failed", model=model, version=number),
                    lambda desired: desired.without(model, number),
                )
            except StateNotSaved as error:
                _log.warning("version %s of model %s is still remembered: %s", number, model, error)

    async def remember_start(self) -> None:
        """Write down what is served from the start, where it differs from what was remembered."""
        async with self._changing:
            await self._memory.commit_start()

    async def scale(self, version: ModelVersion, low: int, high: int) -> asyncio.Task[None]:
        """Bring a version to at least `low` and at most `high` workers.

        Returns:
            A task that runs to its end even if nobody awaits it; it raises as
            `ModelVersion.scale` does.

        Raises:
            StateNotSaved: The counts cannot be remembered; nothing has changed.
        """
        return await self._change(self._remember_scale(version, low, high))

    async def _remember_scale(
        self, version: ModelVersion, low: int, high: int
    ) -> asyncio.Task[None]:
        async with self._changing:
            await self._memory.commit(
                Operation(name="scale", model=version.model, version=version.version),
                lambda desired: desired.with_workers(
                    version.model, version.version, low=low, high=high
                ),
            )
            return self._in_background(self._scale(version, low, high))

    async def _scale(self, version: ModelVersion, low: int, high: int) -> None:
        try:
            await version.scale(low, high)
        finally:
            self.on_change()

    async def set_default(self, model: str, version: str) -> None:
        """Let another version answer by default, from the next request on.

        Raises:
            ModelNotFound, ModelVersionNotFound: No such entry.
            Conflict: The version is not ready.
            StateNotSaved: The choice cannot be remembered; the default stays.
        """
        self._check_default(model, version)
        await self._change(self._set_default(model, version))

    async def _set_default(self, model: str, version: str) -> None:
        async with self._changing:
            entry, chosen = self._check_default(model, version)

            def change(desired: Desired) -> Desired:
                if desired.version(model, version) is None:  # some of its workers still start
                    desired = desired.with_version(record_of(chosen))
                return desired.with_default(model, version)

            operation = Operation(name="set-default", model=model, version=version)
            await self._memory.commit(operation, change)
            self._flip(entry, chosen)

    def _check_default(self, model: str, version: str) -> tuple[_Model, ModelVersion]:
        """The version that may become the default, or why it may not."""
        entry = self._entry(model)
        chosen = entry.versions.get(version)
        if chosen is None:
            raise ModelVersionNotFound(f"Model version {version} does not exist for model {model}")
        if chosen.state is not VersionState.READY and entry.default != version:
            detail = f" ({chosen.reason})" if chosen.reason else ""
            raise Conflict(
                f"Model version {version} of model {model} is {chosen.state.value}{detail}, not "
                f"ready; version {entry.default} stays the default. Scale it up or wait for it."
            )
        return entry, chosen

    def choose_default(self, version: ModelVersion) -> None:
        """Let a version answer by default although its workers are still starting."""
        self._flip(self._entry(version.model), version)

    async def unregister(self, model: str, version: str | None = None) -> None:
        """Remove a version: no new requests from now on; drained, then closed.

        Raises:
            ModelNotFound, ModelVersionNotFound: No such entry.
            DefaultVersionInUse: It is the default while others exist.
            StateNotSaved: The removal cannot be remembered; the version stays.
        """
        self._check_removal(model, version)
        removal = await self._change(self._unregister(model, version))
        await asyncio.shield(removal)

    async def _unregister(self, model: str, version: str | None) -> asyncio.Task[int]:
        async with self._changing:
            found = self._check_removal(model, version)
            if not found.package.is_part:
                await self._memory.commit(
                    Operation(name="unregister", model=model, version=found.version),
                    lambda desired: desired.without(model, found.version),
                )
            return self._take_out(found)

    def _check_removal(self, model: str, version: str | None) -> ModelVersion:
        """The version that may be removed, or why it may not."""
        entry = self._entry(model)
        found = self.resolve(model, version)
        if found.version == entry.default and len(entry.versions) > 1:
            raise DefaultVersionInUse(f"Cannot remove default version for model {model}")
        return found

    def deploy(
        self, registration: Registration, *, on_event: Callable[[DeployEvent], None]
    ) -> asyncio.Task[None]:
        """Register, wait until ready, make default, drain and remove the previous default.

        A version that fails is removed, and the previous one goes on answering. The returned task
        runs to its end even if nobody awaits it. Without worker counts the new version gets as many
        workers as the one it replaces.

        Args:
            registration: What to deploy.
            on_event: Called after each step; `DONE` or `FAILED` comes last.

        Raises:
            BadParameter, Conflict: As `register`, before the first event.
        """
        model = registration.model or registration.package.manifest.model_name
        entry = self._models.get(model or "")
        if registration.settings.max_workers == 0:
            like = entry.versions[entry.default].settings if entry else registration.settings
            counts = registration.settings.with_workers(
                max(1, like.min_workers), max(1, like.max_workers)
            )
            registration = replace(registration, settings=counts)
        version = self.register(
            registration,
            on_stage=lambda stage: on_event(_event(DeployStep(stage.value), version)),
        )
        return self._in_background(self._promote(version, on_event))

    async def _promote(
        self, version: ModelVersion, on_event: Callable[[DeployEvent], None]
    ) -> None:
        """The rest of a deployment, from loading to the end of the previous version."""
        on_event(_event(DeployStep.REGISTERED, version))
        try:
            try:
                await version.wait_workers()
                version.on_stage = lambda _: None  # workers started later are no part of this
                old, removal = await self._replace_default(version)
            except (WorkerError, StateNotSaved):
                await self._remove(version)
                raise
        except FlambeauError as error:
            on_event(_event(DeployStep.FAILED, version, str(error)))
            return
        if old is not version:
            on_event(_event(DeployStep.DEFAULT, version, f"instead of version {old.version}"))
            given_up = await removal if removal is not None else 0
            on_event(_event(DeployStep.DRAINED, old, f"{given_up} requests given up"))
        on_event(_event(DeployStep.DONE, version))

    async def _replace_default(
        self, version: ModelVersion
    ) -> tuple[ModelVersion, asyncio.Task[int] | None]:
        """Make a version that is ready the default, and begin to remove the one before.

        Returns:
            The previous default, which may be this one, and the task that drains it.

        Raises:
            ModelNotFound, ModelVersionNotFound, Conflict: As `set_default`.
            StateNotSaved: Nothing has changed.
        """
        model, number = version.model, version.version
        async with self._changing:
            entry, _ = self._check_default(model, number)
            old = entry.versions[entry.default]

            def change(desired: Desired) -> Desired:
                desired = desired.with_version(record_of(version)).with_default(model, number)
                return desired if old is version else desired.without(model, old.version)

            await self._memory.commit(Operation(name="deploy", model=model, version=number), change)
            self._flip(entry, version)
            return old, None if old is version else self._take_out(old)

    def stop_accepting(self) -> None:
        """Be not ready from now on; requests that come all the same are still answered."""
        self._accepting = False

    def note_startup_failure(self, url: str, reason: str) -> None:
        """An archive that should be served from the start is not; not ready until it is."""
        self._startup_failures[url] = reason

    def startup_done(self) -> None:
        """Every model that is served from the start has been entered; be ready when they are."""
        self._starting = False

    def hurry(self) -> None:
        """Do not wait for requests any longer: what is draining is closed at once."""
        self._drain_timeout_s = 0.0
        for task in self._draining:
            task.cancel()

    async def close(self) -> int:
        """Drain and close everything; returns how many requests were given up."""
        self.stop_accepting()
        if self._changes:
            await asyncio.wait(self._changes)
        versions = [v for entry in self._models.values() for v in entry.versions.values()]
        given_up = await asyncio.gather(*(self._remove(version) for version in versions))
        if self._background:
            await asyncio.wait(self._background)
        return sum(given_up)

    def _entry(self, model: str) -> _Model:
        entry = self._models.get(model)
        if entry is None:
            if self._starting and model in self._memory.desired.models:
                raise NoWorker(f"Model {model} is being loaded again after a restart; retry soon")
            raise ModelNotFound(f"Model not found: {model}")
        return entry

    def _flip(self, entry: _Model, version: ModelVersion) -> None:
        _log.info(
            "default version changes from %s to %s",
            entry.default,
            version.version,
            extra={"model": version.model},
        )
        if entry.default != version.version:
            self._metrics.swaps.labels(version.model).inc()
        entry.default = version.version
        self.on_change()

    def _is_gone(self, version: ModelVersion) -> bool:
        entry = self._models.get(version.model)
        return entry is None or entry.versions.get(version.version) is not version

    async def _remove(self, version: ModelVersion) -> int:
        """Take a version out, and wait for its end; returns how many requests were given up."""
        if self._is_gone(version):
            return 0  # somebody else removes it already
        return await asyncio.shield(self._take_out(version))

    def _take_out(self, version: ModelVersion) -> asyncio.Task[int]:
        """Out of the table in this step; then drained and closed even if the caller goes away."""
        entry = self._models[version.model]
        del entry.versions[version.version]
        if not entry.versions:
            del self._models[version.model]
        elif entry.default == version.version:
            entry.default = next(reversed(entry.versions))
        self.on_change()
        closing = self._in_background(self._drain_and_close(version))
        closing.add_done_callback(_collect_soon)
        return closing

    async def _change(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Write a change down and make it, to the end even if the caller goes away."""
        task = asyncio.ensure_future(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("a change to the models failed: %s", error)

    async def _drain_and_close(self, version: ModelVersion) -> int:
        draining = asyncio.ensure_future(version.drain(timeout_s=self._drain_timeout_s))
        self._draining.add(draining)
        await asyncio.wait({draining})
        self._draining.discard(draining)
        given_up = version.num_unanswered if draining.cancelled() else draining.result()
        await version.close()
        await self._discard(version.package)
        _log.info(
            "model version closed",
            extra={
                "model": version.model,
                "version": version.version,
                "requests_given_up": given_up,
            },
        )
        return given_up

    def _gauges(self) -> Iterator[VersionGauges]:
        for entry in self._models.values():
            for number, version in entry.versions.items():
                yield version.gauges(is_default=number == entry.default)


def _collect_soon(_: asyncio.Task[int]) -> None:
    """Free what a closed version leaves, half a MiB in cycles: `serving.py` collects rarely."""
    asyncio.get_running_loop().call_soon(gc.collect)


def _event(step: DeployStep, version: ModelVersion, message: str = "") -> DeployEvent:
    if step is DeployStep.READY:
        message = next((slot.check for slot in version.slots if slot.check), "")
    return DeployEvent(step=step, model=version.model, version=version.version, message=message)
