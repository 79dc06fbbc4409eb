"""Snapshots of the configuration: taken at each change, and what the next start begins with.

A snapshot is a properties file: all properties that hold, and `model_snapshot`, the table of what
is served, in the shape TorchServe reads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from flambeau.model_version import ModelVersion
from flambeau.registry import Registry
from flambeau.services import Service
from flambeau.torchserve import java_properties
from flambeau.torchserve.snapshot_files import SnapshotKind, snapshot_dir, snapshot_name
from flambeau.written_aside import written_aside

_log = logging.getLogger(__name__)


class Snapshots(Service):
    """Takes a snapshot once all models are registered, after each change, and at the end."""

    def __init__(
        self,
        registry: Registry,
        properties: Mapping[str, str],
        *,
        log_dir: Path,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Take none yet.

        Args:
            registry: What is served.
            properties: What holds besides.
            log_dir: Snapshots go into its directory `config`.
            clock: Local time, which names them.
        """
        # for the life of the server
        self._registry = registry
        self._properties = {k: v for k, v in properties.items() if k != "model_snapshot"}
        self._directory = snapshot_dir(log_dir)
        self._clock = clock
        self._changed = asyncio.Event()
        # from the moment all models are registered
        self._writing: asyncio.Task[None] | None = None

    def models_registered(self) -> None:
        self._registry.on_change = self._changed.set
        self._writing = asyncio.ensure_future(self._write_changes())

    async def stop(self, *, timeout_s: float) -> None:  # noqa: ARG002  # it takes no time
        if self._writing is None:
            return
        self._registry.on_change = lambda: None
        self._writing.cancel()
        await asyncio.wait({self._writing})
        await self._write(SnapshotKind.SHUTDOWN)

    async def _write_changes(self) -> None:
        await self._write(SnapshotKind.STARTUP)
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._write(SnapshotKind.SNAPSHOT)

    async def _write(self, kind: SnapshotKind) -> None:
        """Write one file, whole or not at all; a disk that is full costs the snapshot only."""
        now = self._clock()
        path = self._directory / snapshot_name(kind, now=now)
        document = model_snapshot(self._registry, name=path.name, now=now)
        text = java_properties.render(
            {**self._properties, "model_snapshot": json.dumps(document, indent=2)}
        )
        try:
            # the thread may outlive a cancelled task: the file is written to its end all the same
            await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(_save, path, text)))
        except OSError as error:
            _log.warning("snapshot %s is not written: %s", path, error)


def model_snapshot(registry: Registry, *, name: str, now: datetime) -> dict[str, object]:
    """What is served, as TorchServe's snapshots tell it."""
    models = {
        default.model: {
            version.version: _entry(version, is_default=version is default)
            for version in registry.versions(default.model)
        }
        for default in registry.listed()
    }
    return {
        "name": name,
        "modelCount": sum(map(len, models.values())),
        "created": int(now.timestamp() * 1000),
        "models": models,
    }


def _entry(version: ModelVersion, *, is_default: bool) -> dict[str, object]:
    settings, package = version.settings, version.package
    entry: dict[str, object] = {
        "defaultVersion": is_default,
        "marName": package.downloaded.name if package.downloaded else package.url,
        "minWorkers": settings.min_workers,
        "maxWorkers": settings.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "responseTimeout": _whole(settings.response_timeout_s),
        "startupTimeout": _whole(settings.startup_timeout_s),
        "runtimeType": package.manifest.runtime,
    }
    if settings.parallel_level > 1:
        entry["parallelLevel"] = settings.parallel_level
    return entry


def _whole(seconds: float) -> float:
    """Seconds as TorchServe writes them: without a fraction where there is none."""
    return int(seconds) if seconds == int(seconds) else seconds


def _save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as file:
        os.fchmod(file.fileno(), 0o600)  # a keystore's password may be in it
        file.write(text.encode("ascii"))
