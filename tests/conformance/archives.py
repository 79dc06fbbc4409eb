"""The archives of the scenarios, built by torch-model-archiver out of tests/conformance/models.

    build(["plain", "plain_v2"], store)

The key in `ARCHIVES` is the name in the model store, without `.mar`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from model_archiver import ModelArchiverConfig
from model_archiver.model_packaging import generate_model_archive

MODELS: Final = Path(__file__).resolve().parent / "models"
INDEX_TO_NAME: Final = {"0": "low", "1": ["n001", "middle"], "2": "high"}


@dataclass(frozen=True, kw_only=True)
class ArchiveSpec:
    """What torch-model-archiver is told.

    Attributes:
        model: The model's name.
        handler: A file of tests/conformance/models, a key of `files`, or a built-in handler.
        version: The model's version.
        model_file: A file of tests/conformance/models with the network.
        weights: Writes the serialized file into a directory and returns it.
        yaml: Text of its model-config.yaml; empty for none.
        files: More files, by name; also where `handler` may be.
        format: The archive format.
    """

    model: str
    handler: str = "plain.py"
    version: str = "1.0"
    model_file: str | None = None
    weights: Callable[[Path], Path] | None = None
    yaml: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    format: str = "default"
    requirements: str = ""


def build(names: Iterable[str], store: Path) -> None:
    """Put archives into a model store."""
    for name in names:
        made = ARCHIVES.get(name)
        if made is None:
            _BROKEN[name](store)
        else:
            _build(made, name, store)


def _build(spec: ArchiveSpec, name: str, store: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        files = {**spec.files}
        if spec.yaml:
            files["model-config.yaml"] = spec.yaml
        if spec.requirements:
            files["requirements.txt"] = spec.requirements
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8")
        place = directory if spec.handler in files else MODELS
        extra = [file for file in spec.files if file != spec.handler]
        (directory / "export").mkdir()
        config = ModelArchiverConfig(
            model_name=spec.model,
            handler=str(place / spec.handler) if ".py" in spec.handler else spec.handler,
            version=spec.version,
            model_file=str(MODELS / spec.model_file) if spec.model_file else None,
            serialized_file=str(spec.weights(directory)) if spec.weights else None,
            extra_files=",".join(str(directory / file) for file in extra) or None,
            config_file=str(directory / "model-config.yaml") if spec.yaml else None,
            requirements_file=str(directory / "requirements.txt") if spec.requirements else None,
            archive_format=spec.format,  # pyright: ignore[reportArgumentType]  # its list is incomplete
            export_path=str(directory / "export"),
            runtime="python",
            force=True,
        )
        generate_model_archive(config)
        (made,) = (directory / "export").iterdir()
        suffix = {"tgz": ".tar.gz", "no-archive": ""}.get(spec.format, ".mar")
        shutil.move(made, store / f"{name}{suffix}")


# weights, made where they are needed


def _state_dict(directory: Path) -> Path:
    import torch  # noqa: PLC0415  # only some scenarios need it

    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    torch.save({"linear.weight": weights}, directory / "weights.pth")
    return directory / "weights.pth"


def _torchscript(directory: Path) -> Path:
    import torch  # noqa: PLC0415

    linear = torch.nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is what archives hold
        traced = torch.jit.trace(linear, torch.zeros(1, 2))  # type: ignore[no-untyped-call]  # torch's
        torch.jit.save(traced, directory / "model.pt")
    return directory / "model.pt"


# archives that no archiver makes


def _zip(name: str, manifest: object | None, files: Mapping[str, str]) -> Callable[[Path], None]:
    def make(store: Path) -> None:
        with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
            if manifest is not None:
                archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
            for file, text in files.items():
                archive.writestr(file, text)

    return make


def _no_zip(store: Path) -> None:
    (store / "no_zip.mar").write_bytes(b"this is no zip file" + os.urandom(0))


_PLAIN = (MODELS / "plain.py").read_text(encoding="utf-8")
_MANIFEST = {"createdOn": "01/01/2024 10:00:00", "runtime": "python", "archiverVersion": "0.9.0"}
_MODEL = {"modelName": "by_hand", "handler": "plain.py", "modelVersion": "1.0"}

_BROKEN: Final[dict[str, Callable[[Path], None]]] = {
    "no_zip": _no_zip,
    "no_manifest": _zip("no_manifest", None, {"plain.py": _PLAIN}),
    "no_model_name": _zip(
        "no_model_name", _MANIFEST | {"model": {"handler": "plain.py"}}, {"plain.py": _PLAIN}
    ),
    "no_model": _zip("no_model", _MANIFEST, {"plain.py": _PLAIN}),
    "no_handler": _zip(
        "no_handler", _MANIFEST | {"model": {"modelName": "no_handler"}}, {"plain.py": _PLAIN}
    ),
    "no_version": _zip(
        "no_version",
        _MANIFEST | {"model": {"modelName": "no_version", "handler": "plain.py"}},
        {"plain.py": _PLAIN},
    ),
    "bad_runtime": _zip(
        "bad_runtime", _MANIFEST | {"runtime": "perl", "model": _MODEL}, {"plain.py": _PLAIN}
    ),
    "old_manifest": _zip(
        "old_manifest",
        _MANIFEST
        | {
            "specificationVersion": "1.0",
            "implementationVersion": "1.0",
            "modelServerVersion": "1.0",
            "description": "an old one",
            "license": "none",
            "model": _MODEL | {"modelName": "old_manifest", "unknownKey": [1]},
        },
        {"plain.py": _PLAIN},
    ),
    "handler_without_suffix": _zip(
        "handler_without_suffix",
        _MANIFEST | {"model": _MODEL | {"modelName": "handler_without_suffix", "handler": "plain"}},
        {"plain.py": _PLAIN},
    ),
    "function": _zip(
        "function",
        _MANIFEST | {"model": _MODEL | {"modelName": "function", "handler": "plain:other_entry"}},
        {"plain.py": _PLAIN},
    ),
    "missing_handler_file": _zip(
        "missing_handler_file",
        _MANIFEST
        | {"model": _MODEL | {"modelName": "missing_handler_file", "handler": "absent.py"}},
        {"plain.py": _PLAIN},
    ),
    "manifest_no_json": _zip("manifest_no_json", None, {"MAR-INF/MANIFEST.json": "{no json"}),
}

_RAISING = "def handle(data, context):\n    raise {what}\n"
_TWO_CLASSES = """\
class One:
    def initialize(self, context): pass
    def handle(self, data, context): return data
class Two:
    def initialize(self, context): pass
    def handle(self, data, context): return data
"""
_YAML = """\
minWorkers: 1
maxWorkers: 2
batchSize: 3
maxBatchDelay: 77
responseTimeout: 66
startupTimeout: 55
maxRetryTimeoutInSec: 44
clientTimeoutInMills: 33000
jobQueueSize: 22
useJobTicket: false
deviceType: cpu
custom:
  nested: [1, two, null]
"""
_BATCHED_YAML = "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 3\nmaxBatchDelay: 4000\n"
_SEQUENCE_YAML = """\
minWorkers: 1
maxWorkers: 1
batchSize: 2
maxBatchDelay: 50
sequenceBatching: true
sequenceMaxIdleMSec: 60000
maxNumSequence: 2
maxSequenceJobQueueSize: 5
"""
_METRICS_YAML = "minWorkers: 1\nmaxWorkers: 1\n"

ARCHIVES: Final[dict[str, ArchiveSpec]] = {
    "behaviours": ArchiveSpec(model="behaviours", handler="behaviours.py"),
    "configured": ArchiveSpec(model="configured", handler="behaviours.py", yaml=_YAML),
    "configured_too": ArchiveSpec(model="configured_too", handler="behaviours.py", yaml=_YAML),
    "inputs": ArchiveSpec(model="inputs", handler="inputs.py"),
    "streaming": ArchiveSpec(model="streaming", handler="streaming.py"),
    "batched": ArchiveSpec(model="batched", handler="batched.py", yaml=_BATCHED_YAML),
    "counting": ArchiveSpec(model="counting", handler="counting.py", yaml=_SEQUENCE_YAML),
    "measured": ArchiveSpec(model="measured", handler="measured.py", yaml=_METRICS_YAML),
    "instances": ArchiveSpec(model="instances", handler="instances.py"),
    "slow": ArchiveSpec(
        model="slow", handler="behaviours.py", yaml="responseTimeout: 2\nmaxRetryTimeoutInSec: 60\n"
    ),
    "crowded": ArchiveSpec(model="crowded", handler="behaviours.py", yaml="jobQueueSize: 1\n"),
    "hurried": ArchiveSpec(
        model="hurried", handler="behaviours.py", yaml="clientTimeoutInMills: 1000\n"
    ),
    # versions and formats
    "plain": ArchiveSpec(model="plain"),
    "plain_v2": ArchiveSpec(model="plain", version="2.0"),
    "plain_odd": ArchiveSpec(model="plain", version="v3-beta_4.x"),
    "stored": ArchiveSpec(model="stored", format="zip-store"),
    "tarred": ArchiveSpec(model="tarred", format="tgz"),
    "unpacked": ArchiveSpec(model="unpacked", format="no-archive"),
    # weights
    "eager": ArchiveSpec(
        model="eager", handler="base_handler", model_file="network.py", weights=_state_dict
    ),
    "scripted": ArchiveSpec(model="scripted", handler="base_handler", weights=_torchscript),
    "rows": ArchiveSpec(
        model="rows",
        handler="rows.py",
        weights=_torchscript,
        files={"index_to_name.json": json.dumps(INDEX_TO_NAME)},
    ),
    "eager_rows": ArchiveSpec(
        model="eager_rows", handler="rows.py", model_file="network.py", weights=_state_dict
    ),
    # images
    "pixels": ArchiveSpec(
        model="pixels",
        handler="image_classifier",
        model_file="pixels.py",
        files={"index_to_name.json": json.dumps(INDEX_TO_NAME | {"3": "x", "4": "y", "5": "z"})},
    ),
    "boxes": ArchiveSpec(model="boxes", handler="object_detector", model_file="boxes.py"),
    "regions": ArchiveSpec(model="regions", handler="image_segmenter", model_file="regions.py"),
    "no_weights": ArchiveSpec(model="no_weights", handler="base_handler"),
    # handlers that do not load
    "raises_value_error": ArchiveSpec(
        model="raises_value_error",
        handler="handler.py",
        files={"handler.py": _RAISING.format(what="ValueError('not today')")},
    ),
    "raises_runtime_error": ArchiveSpec(
        model="raises_runtime_error",
        handler="handler.py",
        files={"handler.py": _RAISING.format(what="RuntimeError('not today')")},
    ),
    "raises_memory_error": ArchiveSpec(
        model="raises_memory_error",
        handler="handler.py",
        files={"handler.py": _RAISING.format(what="MemoryError('not today')")},
    ),
    "two_classes": ArchiveSpec(
        model="two_classes", handler="handler.py", files={"handler.py": _TWO_CLASSES}
    ),
    "syntax_error": ArchiveSpec(
        model="syntax_error", handler="handler.py", files={"handler.py": "def handle(:\n"}
    ),
    "missing_module": ArchiveSpec(
        model="missing_module", handler="handler.py", files={"handler.py": "import not_there\n"}
    ),
}
