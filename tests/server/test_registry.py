"""The table itself, with versions that have no workers; swaps of real ones are in integration."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from flambeau.devices import DeviceCycle
from flambeau.errors import (
    BadParameter,
    Conflict,
    DefaultVersionInUse,
    ModelNotFound,
    ModelVersionNotFound,
    NoWorker,
)
from flambeau.manifest import Manifest
from flambeau.metrics import Metrics
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host, Package, VersionState
from flambeau.registry import Registration, Registry
from flambeau.testing import make_request


class Discarded:
    """Remembers which packages were given back."""

    def __init__(self) -> None:
        self.versions: list[str] = []

    async def __call__(self, package: Package) -> None:
        self.versions.append(package.manifest.model_version)


def make_registry(discard: Discarded | None = None) -> Registry:
    registry = Registry(
        host=Host(devices=DeviceCycle(0), environment={}, max_response_bytes=1000),
        metrics=Metrics(),
        drain_timeout_s=5,
        discard=discard or Discarded(),
    )
    registry.startup_done()
    return registry


def registration(version: str, *, model: str | None = "m", named: bool = False) -> Registration:
    manifest = Manifest(model_name="from-manifest" if named else None, model_version=version)
    package = Package(url=f"m-{version}.mar", digest="", model_dir=Path(), manifest=manifest)
    return Registration(package=package, settings=ModelSettings(), model=model)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


def test_the_first_version_is_the_default_and_later_ones_are_not() -> None:
    async def story() -> None:
        registry = make_registry()
        registry.register(registration("1.0"))
        registry.register(registration("2.0"))
        assert registry.resolve("m").version == "1.0"
        assert registry.resolve("m", "2.0").version == "2.0"
        assert [v.version for v in registry.versions("m")] == ["1.0", "2.0"]

    run(story)


def test_unknown_names_are_told_in_torchserve_s_words() -> None:
    async def story() -> None:
        registry = make_registry()
        with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
            registry.resolve("m")
        registry.register(registration("1.0"))
        with pytest.raises(
            ModelVersionNotFound, match=r"^Model version: 9 does not exist for model: m$"
        ):
            registry.resolve("m", "9")
        with pytest.raises(
            ModelVersionNotFound, match=r"^Model version 9 does not exist for model m$"
        ):
            await registry.set_default("m", "9")

    run(story)


def test_the_name_comes_from_the_manifest_when_the_call_gives_none() -> None:
    async def story() -> None:
        registry = make_registry()
        registry.register(registration("1.0", model=None, named=True))
        assert registry.resolve("from-manifest").model == "from-manifest"
        with pytest.raises(BadParameter, match=r"Model name is not defined"):
            registry.register(registration("1.0", model=None))

    run(story)


def test_a_version_is_registered_once() -> None:
    async def story() -> None:
        registry = make_registry()
        registry.register(registration("1.0"))
        with pytest.raises(
            Conflict, match=r"^Model version 1\.0 is already registered for model m$"
        ):
            registry.register(registration("1.0"))

    run(story)


def test_a_version_that_is_not_ready_does_not_become_the_default() -> None:
    async def story() -> None:
        registry = make_registry()
        registry.register(registration("1.0"))
        registry.register(registration("2.0"))
        with pytest.raises(Conflict, match=r"version 1\.0 stays the default"):
            await registry.set_default("m", "2.0")
        assert registry.resolve("m").version == "1.0"

    run(story)


def test_the_default_version_stays_while_others_exist() -> None:
    async def story() -> None:
        discarded = Discarded()
        registry = make_registry(discarded)
        registry.register(registration("1.0"))
        registry.register(registration("2.0"))
        with pytest.raises(DefaultVersionInUse, match=r"^Cannot remove default version"):
            await registry.unregister("m")
        await registry.unregister("m", "2.0")
        await registry.unregister("m")
        assert discarded.versions == ["2.0", "1.0"]
        with pytest.raises(ModelNotFound):
            registry.resolve("m")

    run(story)


def test_a_removed_version_is_closed_and_refuses_requests() -> None:
    async def story() -> None:
        registry = make_registry()
        version = registry.register(registration("1.0"))
        await registry.unregister("m")
        assert version.state is VersionState.CLOSED
        with pytest.raises(NoWorker):
            version.submit(make_request())

    run(story)


def test_nothing_is_left_of_a_removed_version() -> None:
    """Nobody may wait for a collection: with few new objects, none comes for days."""

    async def story() -> None:
        registry = make_registry()
        version = weakref.ref(registry.register(registration("1.0")))
        await registry.unregister("m")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert version() is None

    gc.disable()
    try:
        run(story)
    finally:
        gc.enable()


def test_a_version_without_workers_refuses_in_torchserve_s_words() -> None:
    async def story() -> None:
        version = make_registry().register(registration("1.0"))
        with pytest.raises(NoWorker, match=r'^Model "m" has no worker to serve inference request'):
            version.submit(make_request())

    run(story)


def test_the_server_is_ready_only_when_everything_asked_for_is_served() -> None:
    async def story() -> None:
        registry = make_registry()
        assert registry.is_ready
        registry.note_startup_failure("m-1.0.mar", "corrupt")
        assert registry.not_ready_reasons() == ["m-1.0.mar is not served: corrupt"]
        registry.register(registration("1.0"))
        assert registry.is_ready
        registry.stop_accepting()
        assert registry.not_ready_reasons() == ["the server is stopping"]

    run(story)


def test_nothing_is_registered_while_the_server_stops() -> None:
    async def story() -> None:
        registry = make_registry()
        await registry.close()
        with pytest.raises(Conflict, match=r"stopping"):
            registry.register(registration("1.0"))

    run(story)
