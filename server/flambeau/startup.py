"""The models that are served from the start: which, with how many workers, and which by default."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flambeau.config import OVER_YAML, ServeConfig
from flambeau.devices import count_cpus
from flambeau.errors import FlambeauError
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Package
from flambeau.packages import PackageLoader
from flambeau.registry import Registration, Registry

_log = logging.getLogger(__name__)


def startup_workers(config: ServeConfig, *, num_gpus: int) -> int:
    """Workers of a model that says nothing of them itself."""
    alone = count_cpus() if config.one_worker_per_cpu else 1
    return config.default_workers_per_model or num_gpus or alone


async def load_startup_models(
    config: ServeConfig, registry: Registry, packages: PackageLoader, *, workers: int
) -> None:
    """Register what `config.models` names; one that fails leaves the server not ready."""
    for name, url in await packages.startup_urls(config.models):
        await _load(name, url, config, registry, packages, workers=workers)


async def _load(
    name: str | None,
    url: str,
    config: ServeConfig,
    registry: Registry,
    packages: PackageLoader,
    *,
    workers: int,
) -> None:
    try:
        package, settings = await packages.load(url, model=name, at_startup=True)
        wishes = _wishes(config, name or package.manifest.model_name, package)
        settings = _with_wishes(settings, wishes, workers=workers)
        package = replace(package, at_startup=True)
        version = registry.register(Registration(package=package, settings=settings, model=name))
    except FlambeauError as error:
        registry.note_startup_failure(url, str(error))
        _log.error("%s is not served: %s", url, error)
        return
    if wishes.get("defaultVersion") is True:
        registry.choose_default(version)


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
