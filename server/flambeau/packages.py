"""From a model's url to a package that workers can load.

Fetching, reading, unpacking and installing block, so they run in threads; the event loop only ever
sees the result.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from flambeau.downloads import Downloads, check_sha256, name_of
from flambeau.errors import ArchiveError, ArchiveExists, Conflict, ModelNotFound
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Package
from flambeau.model_yaml import read_model_yaml
from flambeau.required_runtime import check_requires
from flambeau.requirements import PipOptions, install_requirements
from flambeau.signing import UNCHECKED, Verdict
from flambeau.store import ModelStore, Unpacked, has_scheme

_log = logging.getLogger(__name__)
_MAX_LOADING = 8  # at a time
_SHA256_FOLLOWS = "#sha256="


class PackageLoader:
    """Opens archives of one store with the server's default settings."""

    def __init__(
        self,
        store: ModelStore,
        *,
        defaults: ModelSettings,
        model_settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({}),
        downloads: Downloads | None = None,
        default_handler: str | None = None,
        install_py_dep_per_model: bool = False,
        pip: PipOptions | None = None,
    ) -> None:
        """Open archives of `store`.

        Args:
            store: Where they are.
            defaults: What a version runs with unless it is told otherwise.
            model_settings: By model and version, in the YAML's keys; an archive's YAML wins.
            downloads: Brings archives from addresses into the store; None allows no address.
            default_handler: The handler of archives that name none.
            install_py_dep_per_model: Install the requirements that archives list.
            pip: Where from and under which conditions; None takes pip's own settings.
        """
        # for the life of the server
        self._store = store
        self._defaults = defaults
        self._model_settings = model_settings
        self._downloads = downloads or Downloads(store.directory)
        self._default_handler = default_handler
        self._install = install_py_dep_per_model
        self._pip = pip or PipOptions()
        self._stopping = threading.Event()
        # not the event loop's own threads: fetching and installing may take hours
        self._threads = ThreadPoolExecutor(_MAX_LOADING, thread_name_prefix="package")

    @property
    def store(self) -> ModelStore:
        """Where archives are, and where they unpack."""
        return self._store

    async def load(
        self,
        url: str,
        *,
        handler: str | None = None,
        model: str | None = None,
        s3_sse_kms: bool = False,
        sha256: str | None = None,
        at_startup: bool = False,
    ) -> tuple[Package, ModelSettings]:
        """Fetch and unpack an archive, read what its author wishes for, install what it needs.

        Args:
            url: An entry of the model store, an address that is allowed, or a directory whose
                `file://` address is; `#sha256=` and the digest may follow.
            handler: Overrides the manifest's handler.
            model: Overrides the manifest's name.
            s3_sse_kms: Sign the request as S3 asks for objects encrypted with a KMS key.
            sha256: What the archive's must be, in hexadecimal.
            at_startup: Without any other name, call the model as its file is called; and take an
                address's archive from the store if an earlier run has fetched it.

        Raises:
            ModelNotFound: There is no such entry, or the address is not allowed.
            DownloadFailed, ArchiveExists: The archive cannot be brought into the store.
            ArchiveError: It is unreadable, unsafe or incomplete, or its model has no name.
            RequirementsFailed: What it needs cannot be installed.
            Conflict: The server is stopping.
        """
        if self._stopping.is_set():
            raise Conflict(f"{url} cannot be registered: the server is stopping")
        place, _, stated = url.partition(_SHA256_FOLLOWS)
        wanted = _Wanted(
            url=url,
            place=place,
            sha256=sha256 or stated or None,
            handler=handler,
            model=model,
            s3_sse_kms=s3_sse_kms,
            at_startup=at_startup,
        )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._load, wanted)

    async def discard(self, package: Package) -> None:
        """Delete a package's unpacked files, and its archive if that was fetched for it.

        Fetched archives stay when the server stops: it may be started with them again.
        """
        await asyncio.to_thread(self._store.remove, package.model_dir)
        if package.downloaded is not None and not self._stopping.is_set():
            await asyncio.to_thread(package.downloaded.unlink, missing_ok=True)

    def stop(self) -> None:
        """The server stops: give up what is being loaded, and keep what was fetched."""
        self._stopping.set()
        self._downloads.stop()

    async def startup_urls(self, models: tuple[str, ...]) -> list[tuple[str | None, str]]:
        """`--models` as pairs of name and archive; the name is None where the manifest has it."""
        if any(model.lower() == "all" for model in models):
            return [(None, name) for name in await asyncio.to_thread(self._store.names)]
        return [_name_and_url(model) for model in models]

    def _load(self, wanted: _Wanted) -> tuple[Package, ModelSettings]:
        if not has_scheme(wanted.place):
            return self._open(self._found(wanted.place), wanted)
        try:
            downloaded = self._downloads.fetch(
                wanted.place, s3_sse_kms=wanted.s3_sse_kms, sha256=wanted.sha256
            )
        except ArchiveExists as error:
            if not wanted.at_startup:
                raise
            _log.info("%s; it is served as it is", error)
            return self._open(self._store.find(name_of(wanted.place)), wanted)
        try:
            package, settings = self._open(downloaded, wanted)
        except BaseException:
            downloaded.unlink(missing_ok=True)
            raise
        return replace(package, downloaded=downloaded), settings

    def _found(self, url: str) -> Path:
        try:
            return self._store.find(url)
        except ModelNotFound:
            directory = self._downloads.directory(url)
            if directory is None:
                raise
            return directory

    def _open(self, archive: Path, wanted: _Wanted) -> tuple[Package, ModelSettings]:
        unpacked = self._store.unpack(archive, stopping=self._stopping)
        try:
            _check_digest(unpacked, wanted)
            manifest = unpacked.manifest
            if manifest.model_name is None and wanted.at_startup:
                manifest = replace(manifest, model_name=_stem(wanted.place))
            handler = wanted.handler
            if handler is None and manifest.handler is None:
                handler = self._default_handler
            model = wanted.model or manifest.model_name or ""
            _check_servable(manifest, model=model, handler=handler)
            _write_missing_manifest(unpacked.directory, manifest)
            check_requires(unpacked.directory)
            document = read_model_yaml(unpacked.directory, manifest.config_file)
            configured = self._model_settings.get(model, {}).get(manifest.model_version, {})
            settings = self._defaults.with_yaml(configured, by_operator=True).with_yaml(document)
            python = self._install_requirements(
                unpacked.directory, manifest, model=model, use_venv=settings.use_venv
            )
        except BaseException:
            self._store.remove(unpacked.directory)
            raise
        package = Package(
            url=wanted.url,
            digest=unpacked.digest,
            model_dir=unpacked.directory,
            manifest=manifest,
            handler=handler,
            python=python,
            signature=unpacked.verdict,
        )
        _log_verdict(wanted.url, unpacked.verdict)
        return package, settings

    def _install_requirements(
        self, directory: Path, manifest: Manifest, *, model: str, use_venv: bool
    ) -> Path | None:
        if not self._install or manifest.requirements_file is None:
            return None
        return install_requirements(
            directory,
            manifest.requirements_file,
            model=model,
            use_venv=use_venv,
            options=self._pip,
            stopping=self._stopping,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """What a registration says about its package; see `PackageLoader.load`."""

    url: str
    place: str
    sha256: str | None
    handler: str | None
    model: str | None
    s3_sse_kms: bool
    at_startup: bool


def _name_and_url(text: str) -> tuple[str | None, str]:
    """`NAME=URL` or `URL`, which may have `=` in its query."""
    name, separator, url = text.partition("=")
    return (name, url) if separator and name and not has_scheme(text) else (None, text)


def _stem(url: str) -> str:
    """What an archive's file is called, without what tells its format."""
    name = unquote(urlsplit(url).path if has_scheme(url) else url).rpartition("/")[2]
    for suffix in (".tar.gz", ".tgz", ".mar", ".model"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _check_digest(unpacked: Unpacked, wanted: _Wanted) -> None:
    try:
        check_sha256(unpacked.digest, expected=wanted.sha256)
    except ValueError as error:
        raise ArchiveError(f"{wanted.place}: {error}") from error


def _log_verdict(url: str, verdict: Verdict) -> None:
    if verdict is UNCHECKED:
        return
    level = logging.INFO if verdict.is_trusted else logging.WARNING
    _log.log(level, "archive %s is %s", url, verdict)


def _write_missing_manifest(directory: Path, manifest: Manifest) -> None:
    """Workers and handlers read the file, so there is one."""
    path = directory / MANIFEST_PATH
    if path.is_file():
        return
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(manifest.to_json(), encoding="utf-8")
    except OSError as error:
        raise ArchiveError(
            f"its {MANIFEST_PATH} is no file ({error}); build the archive again"
        ) from error


def _check_servable(manifest: Manifest, *, model: str, handler: str | None) -> None:
    if not model:
        raise ArchiveError("Model name is not defined.")  # TorchServe's text
    if manifest.runtime == "LSP":
        raise ArchiveError(
            "runtime LSP (TorchServe's C++ backend) is not supported; package a Python handler"
        )
    if handler is None and manifest.handler is None:
        raise ArchiveError(
            "the archive names no handler; add one to it, or give `handler` when registering"
        )
