"""The models that are served from the start: which, with how many workers, and which by default."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flambeau.config import OVER_YAML, ServeConfig
from flambeau.desired import Desired, VersionRecord
from flambeau.devices import count_cpus
from flambeau.errors import ArchiveError, FlambeauError
from flambeau.memory import Memory, record_of
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Package
from flambeau.packages import PackageLoader
from flambeau.registry import Registration, Registry
from flambeau.startup_plan import Configured, Load, Plan, plan_start

_log = logging.getLogger(__name__)


def startup_workers(config: ServeConfig, *, num_gpus: int) -> int:
    """Workers of a model that says nothing of them itself."""
    alone = count_cpus() if config.one_worker_per_cpu else 1
    return config.default_workers_per_model or num_gpus or alone


async def load_startup_models(
    config: ServeConfig,
    registry: Registry,
    packages: PackageLoader,
    memory: Memory,
    *,
    workers: int,
) -> None:
    """Register what is configured and remembered; what fails leaves the server not ready."""
    configured = [
        Configured(url=url, model=name) for name, url in await packages.startup_urls(config.models)
    ]
    plan = plan_start(memory.desired, configured)
    for record in plan.forgotten:
        _log.info("%s is served no longer: it is not configured any more", record.url)
    memory.assume(lambda desired: _after(desired, plan))
    start = _Start(config, registry, packages, memory, workers=workers)
    for load in plan.loads:
        await start.load(load)
    await registry.remember_start()


def _after(desired: Desired, plan: Plan) -> Desired:
    """What is desired once the configuration has had its say."""
    for record in plan.forgotten:
        desired = desired.without(record.model, record.version, for_good=False)
    return replace(desired, removed=desired.removed - plan.no_longer_removed)


class _Start:
    """The loading of one start's models, one after the other."""

    def __init__(
        self,
        config: ServeConfig,
        registry: Registry,
        packages: PackageLoader,
        memory: Memory,
        *,
        workers: int,
    ) -> None:
        self._config = config
        self._registry = registry
        self._packages = packages
        self._memory = memory
        self._workers = workers
        # models whose default version cannot be loaded
        self._held: set[str] = set()

    async def load(self, load: Load) -> None:
        """Register one version, or note why it is not served."""
        record = load.remembered
        try:
            if record is not None and record.model in self._held:
                raise ArchiveError(
                    f"the default version of model {record.model} cannot be loaded, and version "
                    f"{record.version} must not answer in its place"
                )
            await self._register(load)
        except FlambeauError as error:
            if record is not None and load.is_default:
                self._held.add(record.model)
            self._registry.note_startup_failure(load.url, str(error))
            _log.error("%s is not served: %s", load.url, error)

    async def _register(self, load: Load) -> None:
        record = load.remembered
        if record is not None and not load.at_startup:
            registration, wants_default = await self._remembered(record), False
        else:
            registration, wants_default = await self._configured(load)
        version = self._registry.register(registration)
        if record is not None and (record.model, record.version) != (
            version.model,
            version.version,
        ):  # the archive has been replaced
            self._memory.assume(
                lambda desired: desired.without(record.model, record.version, for_good=False)
            )
        entered = record_of(version, is_scaled=record is not None and record.is_scaled)
        self._memory.assume(lambda desired: desired.with_version(entered))
        if wants_default and not self._memory.desired.models[version.model].is_chosen:
            self._registry.choose_default(version)
            self._memory.assume(
                lambda desired: desired.with_default(
                    version.model, version.version, is_chosen=False
                )
            )

    async def _remembered(self, record: VersionRecord) -> Registration:
        """What was registered while the server ran, as it was."""
        package, _ = await self._packages.load(
            record.url,
            handler=record.handler,
            model=record.model,
            sha256=record.digest,
            at_startup=True,
        )
        package = replace(package, manifest=replace(package.manifest, runtime=record.runtime))
        return Registration(package=package, settings=record.settings, model=record.model)

    async def _configured(self, load: Load) -> tuple[Registration, bool]:
        """What the configuration names, and whether it wants it to answer by default."""
        package, settings = await self._packages.load(load.url, model=load.model, at_startup=True)
        wishes = _wishes(self._config, load.model or package.manifest.model_name, package)
        settings = _with_wishes(settings, wishes, workers=self._workers)
        if load.remembered is not None and load.remembered.is_scaled:
            scaled = load.remembered.settings
            settings = settings.with_workers(scaled.min_workers, scaled.max_workers)
        registration = Registration(
            package=replace(package, at_startup=True), settings=settings, model=load.model
        )
        return registration, wishes.get("defaultVersion") is True


def _with_wishes(
    settings: ModelSettings, wishes: Mapping[str, Any], *, workers: int
) -> ModelSettings:
    """The archive's settings, or the configuration's where it insists; `workers` if none says."""
    wants_none = wishes.get("minWorkers") == 0
    if wishes.get(OVER_YAML) is True:
        settings = settings.with_workers(0) if wants_none else settings
        settings = settings.with_yaml(wishes, by_operator=True)
    if settings.min_workers == 0 and not wants_none:
        settings = settings.with_workers(workers)
    return settings


def _wishes(config: ServeConfig, model: str | None, package: Package) -> Mapping[str, Any]:
    """What the configuration says of this version."""
    return config.model_settings.get(model or "", {}).get(package.manifest.model_version, {})
