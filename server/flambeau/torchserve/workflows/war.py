"""A workflow archive (`.war`): a zip with a specification, and a Python file with functions."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flambeau.downloads import Downloads
from flambeau.errors import ArchiveError, ModelNotFound
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.store import ModelStore, check_url, has_scheme
from flambeau.torchserve.workflows.spec import WorkflowSpec

WAR_MANIFEST_PATH: Final = "WAR-INF/MANIFEST.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class War:
    """An unpacked workflow archive.

    Attributes:
        name: The workflow's name; None when the archive has none.
        spec: Its nodes.
        handler: The Python file with its functions, a basename; None without one.
        directory: Where it is unpacked.
        downloaded: The copy in the store that was fetched for it, or None.
    """

    name: str | None
    spec: WorkflowSpec
    handler: str | None
    directory: Path
    downloaded: Path | None


class WarStore:
    """Workflow archives in one directory, and addresses that they may be fetched from."""

    def __init__(self, directory: Path, *, downloads: Downloads, scratch: ModelStore) -> None:
        """Open archives of a directory.

        Args:
            directory: Where they are.
            downloads: Brings archives from addresses into it.
            scratch: Unpacks them; what is left is removed with it.
        """
        # for the life of the server
        self._directory = directory
        self._downloads = downloads
        self._scratch = scratch

    def open(self, url: str, *, s3_sse_kms: bool = False, sha256: str | None = None) -> War:
        """Find or fetch an archive, unpack and read it; blocks.

        Raises:
            ModelNotFound: There is none, or the address is not allowed.
            ArchiveError: It is unreadable, unsafe, or its specification is wrong.
        """
        if not has_scheme(url):
            return _read(self._unpack(self._find(url)), downloaded=None)
        path = self._downloads.fetch(url, s3_sse_kms=s3_sse_kms, sha256=sha256)
        try:
            return _read(self._unpack(path), downloaded=path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def function_package(self, war: War, function: str, *, model: str) -> Path:
        """An archive directory of its own for one function of the handler file; blocks.

        Raises:
            ArchiveError: The workflow has no handler file.
        """
        if war.handler is None:
            raise ArchiveError(
                f"node {function!r} is neither a model nor a function: the workflow has no handler "
                "file; add one, or name the node's archive under `models`"
            )
        directory = war.directory / "functions" / function
        shutil.copytree(
            war.directory, directory, ignore=shutil.ignore_patterns("functions", "WAR-INF")
        )
        manifest = Manifest(model_name=model, handler=f"{war.handler}:{function}")
        (directory / MANIFEST_PATH).parent.mkdir()
        (directory / MANIFEST_PATH).write_text(manifest.to_json(), encoding="utf-8")
        return directory

    def discard(self, war: War) -> None:
        """Delete what was unpacked, and what was fetched; blocks."""
        self._scratch.remove(war.directory)
        if war.downloaded is not None:
            war.downloaded.unlink(missing_ok=True)

    def _find(self, url: str) -> Path:
        check_url(url)
        path = self._directory / url
        if Path(url).name != url or url.startswith(".") or not path.is_file() or path.is_symlink():
            raise ModelNotFound(f"Workflow archive not found in workflow-store: {url}")
        return path

    def _unpack(self, path: Path) -> Path:
        return self._scratch.unpack(path).directory


def _read(directory: Path, *, downloaded: Path | None) -> War:
    try:
        return _checked(directory, downloaded=downloaded)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _checked(directory: Path, *, downloaded: Path | None) -> War:
    try:
        document = json.loads((directory / WAR_MANIFEST_PATH).read_bytes())
    except FileNotFoundError as error:
        raise ArchiveError(
            f"no {WAR_MANIFEST_PATH} in it; build it with torch-workflow-archiver"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{WAR_MANIFEST_PATH} is not JSON ({error})") from error
    workflow = document.get("workflow") if isinstance(document, dict) else None
    if not isinstance(workflow, dict):
        raise ArchiveError(f"{WAR_MANIFEST_PATH} has no `workflow`; build the archive again")
    spec_file = _basename(workflow, "specFile")
    if spec_file is None or not (directory / spec_file).is_file():
        raise ArchiveError(
            f"{WAR_MANIFEST_PATH} names specification {spec_file!r}, which is not in the archive"
        )
    handler = _basename(workflow, "handler")
    if handler is not None and not (directory / handler).is_file():
        raise ArchiveError(
            f"{WAR_MANIFEST_PATH} names handler {handler!r}, which is not in the archive"
        )
    name = workflow.get("workflowName")
    return War(
        name=name if isinstance(name, str) and name else None,
        spec=WorkflowSpec.from_yaml((directory / spec_file).read_bytes(), where=spec_file),
        handler=handler,
        directory=directory,
        downloaded=downloaded,
    )


def _basename(workflow: dict[str, Any], key: str) -> str | None:
    value = workflow.get(key)
    if value in {None, ""}:
        return None
    if not isinstance(value, str) or Path(value).name != value or value in {".", ".."}:
        raise ArchiveError(f"{WAR_MANIFEST_PATH} key {key!r} is {value!r}; give a bare file name")
    return value
