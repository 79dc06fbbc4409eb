"""`MAR-INF/MANIFEST.json`: what an archive says about itself.

The keys are those of torch-model-archiver 0.12, so either side's archives are read by the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flambeau.errors import ArchiveError, UnknownRuntime

MANIFEST_PATH = "MAR-INF/MANIFEST.json"
RUNTIMES = ("python", "python3", "LSP")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One archive's manifest; file names are basenames at the archive's root.

    Attributes:
        model_name: The name used when the registration gives none; None when the archive has none.
        model_version: Free text; `1.0` when the archive has none.
        handler: A built-in handler's name, `file.py`, `module` or `module:function`.
        serialized_file: The weights or program, e.g. `model.pt`.
        model_file: A Python file with the one `nn.Module` class of an eager model.
        requirements_file: pip requirements the archive's author asks for.
        config_file: The model's YAML, usually `model-config.yaml`.
        runtime: `python`, `python3` or `LSP`.
        description: For people.
        created_on: `dd/mm/YYYY HH:MM:SS`, as torch-model-archiver writes it.
        archiver_version: Version of whatever wrote the archive.
    """

    model_name: str | None = None
    model_version: str = "1.0"
    handler: str | None = None
    serialized_file: str | None = None
    model_file: str | None = None
    requirements_file: str | None = None
    config_file: str | None = None
    runtime: str = "python"
    description: str | None = None
    created_on: str | None = None
    archiver_version: str | None = None

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a manifest; keys we do not know are ignored.

        Raises:
            ArchiveError: Not JSON, not an object, or a value of the wrong type.
            UnknownRuntime: An unknown runtime.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(
                f"{MANIFEST_PATH} is not JSON ({error}); build the archive again"
            ) from error
        top = _object(document, MANIFEST_PATH)
        model = _object(top.get("model", {}), f"{MANIFEST_PATH} key 'model'")
        manifest = cls(
            model_name=_text(model, "modelName"),
            model_version=_text(model, "modelVersion") or "1.0",
            handler=_text(model, "handler"),
            serialized_file=_basename(model, "serializedFile"),
            model_file=_basename(model, "modelFile"),
            requirements_file=_basename(model, "requirementsFile"),
            config_file=_basename(model, "configFile"),
            runtime=_text(top, "runtime") or "python",
            description=_text(top, "description"),
            created_on=_text(top, "createdOn"),
            archiver_version=_text(top, "archiverVersion"),
        )
        if manifest.runtime not in RUNTIMES:
            raise UnknownRuntime("Runtime is not defined or invalid.")  # TorchServe's text
        return manifest

    def to_json(self) -> str:
        """The document, two-space indented, without the keys that are None."""
        model = {
            "modelName": self.model_name,
            "modelVersion": self.model_version,
            "handler": self.handler,
            "serializedFile": self.serialized_file,
            "modelFile": self.model_file,
            "requirementsFile": self.requirements_file,
            "configFile": self.config_file,
        }
        document = {
            "createdOn": self.created_on,
            "runtime": self.runtime,
            "description": self.description,
            "model": {key: value for key, value in model.items() if value is not None},
            "archiverVersion": self.archiver_version,
        }
        return json.dumps({k: v for k, v in document.items() if v is not None}, indent=2) + "\n"


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArchiveError(f"{where} is {type(value).__name__}, not an object; build it again")
    return value


def _text(source: dict[str, Any], key: str) -> str | None:
    value = source.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # hand-written manifests give versions as numbers
    if not isinstance(value, str):
        raise ArchiveError(f"{MANIFEST_PATH} key {key!r} is {value!r}, not text; build it again")
    return value


def _basename(source: dict[str, Any], key: str) -> str | None:
    value = _text(source, key)
    if value is not None and ("/" in value or "\\" in value or value in {".", ".."}):
        raise ArchiveError(
            f"{MANIFEST_PATH} key {key!r} is {value!r}; it names a file at the archive's root, "
            "so give the bare file name"
        )
    return value
