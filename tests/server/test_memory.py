"""Changes of the table and what is written of them: both, or neither."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from flambeau.config import ServeConfig
from flambeau.devices import DeviceCycle
from flambeau.disk import Disk
from flambeau.errors import ConfigError, ModelNotFound, StateFull, StateNotSaved
from flambeau.manifest import Manifest
from flambeau.memory import Memory, state_file_of
from flambeau.metrics import Metrics
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host, Package
from flambeau.registry import Registration, Registry

_T = TypeVar("_T")


class SmallDisk(Disk):
    """A disk that may be full, or broken."""

    def __init__(self) -> None:
        self.trouble = ""

    def at(self, step: str, work: Callable[[], _T]) -> _T:
        if self.trouble and step == "sqlite":
            raise sqlite3.OperationalError(self.trouble)
        return work()


@asynccontextmanager
async def serving(
    path: Path | str, *, disk: Disk | None = None
) -> AsyncGenerator[tuple[Registry, Memory]]:
    async def discard(_: Package) -> None:
        pass

    config = ServeConfig(state_file=str(path))
    async with Memory.opened(config, environment={}, disk=disk or Disk()) as memory:
        yield (
            Registry(
                host=Host(devices=DeviceCycle(0), environment={}, max_response_bytes=1000),
                metrics=Metrics(),
                drain_timeout_s=5,
                discard=discard,
                memory=memory,
            ),
            memory,
        )


def registration(version: str) -> Registration:
    manifest = Manifest(model_name="m", model_version=version)
    package = Package(url=f"m-{version}.mar", digest="d", model_dir=Path(), manifest=manifest)
    return Registration(package=package, settings=ModelSettings())


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [("database or disk is full", StateFull), ("disk I/O error", StateNotSaved)],
)
def test_what_cannot_be_written_is_not_done_and_can_be_tried_again(
    tmp_path: Path, trouble: str, kind: type[StateNotSaved]
) -> None:
    path, disk = tmp_path / "state.db", SmallDisk()

    async def story() -> None:
        async with serving(path, disk=disk) as (registry, memory):
            first = registry.register(registration("1.0"))
            await registry.remember(first)
            before = memory.desired
            disk.trouble = trouble
            with pytest.raises(kind, match="nothing was changed"):
                await registry.remember(registry.register(registration("2.0")))
            with pytest.raises(kind):
                await registry.scale(first, 0, 3)
            with pytest.raises(kind):
                await registry.unregister("m")
            assert memory.desired == before
            assert registry.versions("m") == [first]
            assert first.settings.max_workers == 0
            disk.trouble = ""
            await (await registry.scale(first, 0, 3))
            assert first.settings.max_workers == 3
        async with serving(path) as (_, memory):
            record = memory.desired.version("m", "1.0")
            assert record is not None
            assert record.settings.max_workers == 3
            assert record.is_scaled

    run(story)


def test_a_removal_is_remembered(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "state.db") as (registry, memory):
            await registry.remember(registry.register(registration("1.0")))
            await registry.unregister("m")
            with pytest.raises(ModelNotFound):
                registry.resolve("m")
            assert memory.desired.models == {}
        async with serving(tmp_path / "state.db") as (_, memory):
            assert memory.desired.models == {}

    run(story)


def test_a_file_is_one_server_s_at_a_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "state.db"):
            with pytest.raises(ConfigError, match="is in use by the server with process id"):
                async with serving(tmp_path / "state.db"):
                    pass

    run(story)


def test_a_file_that_somebody_has_named_must_be_usable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def story() -> None:
        with pytest.raises(ConfigError, match="name a place on a local disk"):
            async with serving(tmp_path / "file" / "state.db"):
                pass

    run(story)


def test_by_itself_there_is_a_file_for_each_model_store(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    one, other = (
        state_file_of(ServeConfig(model_store=tmp_path / name / "store"), environment)
        for name in ("one", "other")
    )
    assert one is not None
    assert other is not None
    assert one.parent == other.parent == tmp_path / "flambeau"
    assert one.name.startswith("store-")
    assert one != other
    assert state_file_of(ServeConfig(state_file=""), environment) is None
