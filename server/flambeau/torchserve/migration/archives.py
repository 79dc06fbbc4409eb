"""Checking archives: manifest, handler, weights, YAML, requirements; nothing of them is run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml

from flambeau.archive import list_files, read_file, read_manifest
from flambeau.archive_content import opened
from flambeau.errors import ArchiveError, FlambeauError
from flambeau.manifest import Manifest
from flambeau.model_settings import ModelSettings
from flambeau.own_paths import builtin_dir
from flambeau.torchserve.migration.findings import Finding, Standing
from flambeau.torchserve.migration.pickles import foreign_names, is_torchscript
from flambeau.torchserve.migration.sources import is_installed, needs_of
from flambeau.unpack_limits import UnpackLimits

_ALL: Final = UnpackLimits(max_total_bytes=1 << 62)
_PICKLED: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_ALLOW: Final = "put `handler: {allow_pickle: true}` into the model's YAML if you trust the file"
_ENDED: Final[Mapping[str, str]] = {
    "ts.handler_utils.distributed.pt_pippy": "use torch.distributed.pipelining instead of PiPPy",
    "ts.torch_handler.distributed.base_pippy_handler": "use torch.distributed.pipelining",
    "ts.llm_launcher": "make an archive with the handler vllm_handler",
}
_ONE_DEVICE: Final = "each worker has one device; spread the model over several in its handler"
_ENDED_YAML: Final[Mapping[str, str]] = {
    "pippy": "PiPPy has ended; use torch.distributed.pipelining in the handler",
    "parallelType": _ONE_DEVICE,
    "parallelLevel": _ONE_DEVICE,
    "torchrun": _ONE_DEVICE,
}


@dataclass(frozen=True, kw_only=True)
class _Archive:
    path: Path
    name: str
    manifest: Manifest
    files: Mapping[str, int]
    model_yaml: Mapping[str, Any]

    def finding(self, topic: str, standing: Standing, reason: str = "", fix: str = "") -> Finding:
        return Finding(subject=self.name, topic=topic, standing=standing, reason=reason, fix=fix)


def check_archive(path: Path) -> list[Finding]:
    """What is to be said about one archive, in any format."""
    name = path.name
    try:
        manifest = read_manifest(path)
        files = list_files(path)
        model_yaml = _model_yaml(path, manifest)
    except FlambeauError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return [
            Finding(
                subject=name,
                topic="archive",
                standing=Standing.UNSUPPORTED,
                reason=reason,
            )
        ]
    archive = _Archive(path=path, name=name, manifest=manifest, files=files, model_yaml=model_yaml)
    checks = (_of_manifest, _of_handler, _of_sources, _of_weights, _of_yaml, _of_requirements)
    findings = [finding for check in checks for finding in check(archive)]
    bad = [finding for finding in findings if finding.standing is not Standing.WORKS]
    return bad or [archive.finding("archive", Standing.WORKS)]


def _model_yaml(path: Path, manifest: Manifest) -> Mapping[str, Any]:
    if manifest.config_file is None:
        return {}
    content = read_file(path, manifest.config_file)
    if content is None:
        raise ArchiveError(f"the manifest names {manifest.config_file!r}, which is not in it")
    try:
        document = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ArchiveError(f"{manifest.config_file} is not YAML: {error}") from error
    return document if isinstance(document, dict) else {}


def _of_manifest(archive: _Archive) -> Iterator[Finding]:
    manifest = archive.manifest
    if manifest.runtime == "LSP":
        yield archive.finding(
            "runtime",
            Standing.UNSUPPORTED,
            "there is no C++ backend",
            "serve the TorchScript program with the handler base_handler, runtime python",
        )
    if manifest.model_name is None:
        yield archive.finding(
            "manifest",
            Standing.DIFFERS,
            "it names no model",
            "give model_name when you register it, or `name=archive` in load_models",
        )
    for key, file in {
        "serializedFile": manifest.serialized_file,
        "modelFile": manifest.model_file,
        "requirementsFile": manifest.requirements_file,
    }.items():
        if file is not None and file not in archive.files:
            yield archive.finding(
                "manifest", Standing.UNSUPPORTED, f"{key} {file} is not in it", "build it again"
            )


def _of_handler(archive: _Archive) -> Iterator[Finding]:
    handler = archive.manifest.handler
    if handler is None:
        yield archive.finding(
            "handler",
            Standing.DIFFERS,
            "it names no handler",
            "set default_service_handler, or give handler when you register it",
        )
        return
    file = f"{_module_of(handler).replace('.', '/')}.py"
    if file in archive.files:
        return
    builtin = _module_of(handler).removeprefix("ts.torch_handler.")
    if (builtin_dir() / f"{builtin}.py").is_file():
        if not (archive.manifest.serialized_file or archive.manifest.model_file):
            yield archive.finding(
                "handler",
                Standing.UNSUPPORTED,
                f"{handler} loads a model and the archive has none",
                "build it again with --serialized-file",
            )
    else:
        yield archive.finding(
            "handler",
            Standing.UNSUPPORTED,
            f"{handler} is neither in the archive nor a built-in handler here",
            f"put {file} into the archive; built in are {', '.join(_builtin_names())}",
        )


def _module_of(handler: str) -> str:
    return handler.partition(":")[0].removesuffix(".py")


def _builtin_names() -> list[str]:
    return sorted(path.stem for path in builtin_dir().glob("*.py"))


def _of_sources(archive: _Archive) -> Iterator[Finding]:
    own = {Path(name).parts[0].removesuffix(".py") for name in archive.files}
    required = _required(archive)
    for name in [name for name in archive.files if name.endswith(".py")]:
        content = read_file(archive.path, name) or b""
        try:
            needs = needs_of(content.decode())
        except (SyntaxError, ValueError) as error:
            yield archive.finding(name, Standing.UNSUPPORTED, f"it is not Python: {error}")
            continue
        for missing in needs.missing_names:
            yield archive.finding(
                name,
                Standing.UNSUPPORTED,
                f"it imports {missing}, which is not here",
                "install torchserve and set use_torchserve_package=true, or do without it",
            )
        for module, fix in _ENDED.items():
            if module in content.decode():
                yield archive.finding(name, Standing.UNSUPPORTED, f"it uses {module}", fix)
        for package in needs.packages:
            if package not in own and not is_installed(package):
                yield _of_package(archive, name, package, is_required=package in required)
        if needs.loads_pickles:
            yield archive.finding(
                name,
                Standing.DIFFERS,
                "torch.load reads only tensors, whatever weights_only says",
                _ALLOW,
            )


def _of_package(archive: _Archive, file: str, package: str, *, is_required: bool) -> Finding:
    if is_required:
        return archive.finding(
            file,
            Standing.DIFFERS,
            f"it imports {package}, which its requirements name and which is not installed",
            f"set install_py_dep_per_model=true, or `pip install {package}` beforehand",
        )
    return archive.finding(
        file,
        Standing.UNSUPPORTED,
        f"it imports {package}, which is not installed",
        f"`pip install {package}` where the server runs, or name it in requirements.txt",
    )


def _required(archive: _Archive) -> set[str]:
    file = archive.manifest.requirements_file
    content = read_file(archive.path, file) if file is not None else None
    lines = (content or b"").decode(errors="replace").splitlines()
    names = (re.match(r"\s*([A-Za-z0-9._-]+)", line) for line in lines)
    return {found[1].lower().replace("-", "_") for found in names if found is not None}


def _of_weights(archive: _Archive) -> Iterator[Finding]:
    weights = archive.manifest.serialized_file
    if weights is None or weights not in archive.files:
        return
    suffix = Path(weights).suffix
    if suffix == ".onnx" and not is_installed("onnxruntime"):
        yield archive.finding(
            weights,
            Standing.UNSUPPORTED,
            "onnxruntime is not installed",
            "`pip install onnxruntime`",
        )
    if suffix in _PICKLED and not _allows_pickles(archive):
        yield from _of_pickle(archive, weights)


def _of_pickle(archive: _Archive, weights: str) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "weights"
        with opened(archive.path, _ALL) as content, copy.open("wb") as file:
            item = next(each for each in content if each.name == weights)
            file.writelines(item.pieces())
        if is_torchscript(copy):
            return
        try:
            names = foreign_names(copy)
        except ValueError as error:
            yield archive.finding(
                weights, Standing.UNSUPPORTED, f"it is no file of torch.save ({error})"
            )
            return
    if names:
        yield archive.finding(
            weights,
            Standing.UNSUPPORTED,
            f"reading it runs code: it is a pickle of {', '.join(names[:5])}",
            f"save a state dict, torch.save(model.state_dict(), ...), or {_ALLOW}",
        )


def _allows_pickles(archive: _Archive) -> bool:
    settings = archive.model_yaml.get("handler")
    return isinstance(settings, dict) and settings.get("allow_pickle") is True


def _of_yaml(archive: _Archive) -> Iterator[Finding]:
    file = archive.manifest.config_file or ""
    for key, fix in _ENDED_YAML.items():
        if key in archive.model_yaml:
            yield archive.finding(f"{file} {key}", Standing.UNSUPPORTED, "it has no effect", fix)
    try:
        ModelSettings().with_yaml(archive.model_yaml)
    except FlambeauError as error:
        yield archive.finding(
            file, Standing.UNSUPPORTED, str(error), "TorchServe let it pass; correct the value"
        )


def _of_requirements(archive: _Archive) -> Iterator[Finding]:
    missing = sorted(package for package in _required(archive) if not _is_distribution(package))
    if missing:
        yield archive.finding(
            "requirements",
            Standing.DIFFERS,
            f"not installed here: {', '.join(missing)}",
            "set install_py_dep_per_model=true, or install them where the server runs",
        )


def _is_distribution(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
