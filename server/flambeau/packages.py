"""From an archive's name in the store to a package that workers can load.

Reading and unpacking block, so they run in threads; the event loop only ever sees the result.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flambeau.errors import ArchiveError
from flambeau.manifest import Manifest
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Package
from flambeau.model_yaml import read_model_yaml
from flambeau.store import ModelStore


class PackageLoader:
    """Opens archives of one store with the server's default settings."""

    def __init__(
        self,
        store: ModelStore,
        *,
        defaults: ModelSettings,
        model_settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({}),
    ) -> None:
        """Open archives of `store`.

        Args:
            store: Where they are.
            defaults: What a version runs with unless it is told otherwise.
            model_settings: By model and version, in the YAML's keys; an archive's YAML wins.
        """
        self._store = store
        self._defaults = defaults
        self._model_settings = model_settings

    async def load(
        self, url: str, *, handler: str | None = None, model: str | None = None
    ) -> tuple[Package, ModelSettings]:
        """Unpack an archive and read what its author wishes for.

        Args:
            url: An entry of the model store.
            handler: Overrides the manifest's handler.
            model: Overrides the manifest's name.

        Raises:
            ModelNotFound: There is no such entry.
            ArchiveError: It is unreadable, unsafe or incomplete.
        """
        return await asyncio.to_thread(self._load, url, handler, model)

    async def discard(self, package: Package) -> None:
        """Delete a package's unpacked files."""
        await asyncio.to_thread(shutil.rmtree, package.model_dir, ignore_errors=True)

    async def startup_urls(self, models: tuple[str, ...]) -> list[tuple[str | None, str]]:
        """`--models` as pairs of name and archive; the name is None where the manifest has it."""
        if any(model.lower() == "all" for model in models):
            return [(None, name) for name in await asyncio.to_thread(self._store.names)]
        pairs = [model.rpartition("=") for model in models]
        return [(name or None, url) for name, _, url in pairs]

    def _load(
        self, url: str, handler: str | None, model: str | None
    ) -> tuple[Package, ModelSettings]:
        unpacked = self._store.unpack(self._store.find(url))
        try:
            _check_servable(unpacked.manifest, handler=handler)
            document = read_model_yaml(unpacked.directory, unpacked.manifest.config_file)
            manifest = unpacked.manifest
            name, version = model or manifest.model_name or "", manifest.model_version
            configured = self._model_settings.get(name, {}).get(version, {})
            settings = self._defaults.with_yaml(configured).with_yaml(document)
        except BaseException:
            shutil.rmtree(unpacked.directory, ignore_errors=True)
            raise
        package = Package(
            url=url,
            digest=unpacked.digest,
            model_dir=unpacked.directory,
            manifest=unpacked.manifest,
            handler=handler,
        )
        return package, settings


def _check_servable(manifest: Manifest, *, handler: str | None) -> None:
    if manifest.runtime == "LSP":
        raise ArchiveError(
            "runtime LSP (TorchServe's C++ backend) is not supported; package a Python handler"
        )
    if handler is None and manifest.handler is None:
        raise ArchiveError(
            "the archive names no handler; add one to it, or give `handler` when registering"
        )
