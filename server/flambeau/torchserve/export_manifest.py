"""The classes that torch-model-archiver makes a manifest with."""

from __future__ import annotations

import json
from pathlib import Path

import flambeau
from flambeau.torchserve.archiver import RuntimeType, created_on


class Model:
    """What a manifest says of its model; files are named without their directories."""

    def __init__(  # noqa: PLR0917  # the tool's signature
        self,
        model_name: str,
        serialized_file: str | None,
        handler: str,
        model_file: str | None = None,
        model_version: str | None = None,
        extensions: object = None,
        requirements_file: str | None = None,
        config_file: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.serialized_file = _basename(serialized_file)
        self.handler = Path(handler).name
        self.model_file = model_file
        self.model_version = model_version
        self.extensions = extensions
        self.requirements_file = requirements_file
        self.config_file = _basename(config_file)
        known = {
            "modelName": model_name,
            "serializedFile": self.serialized_file,
            "handler": self.handler,
            "modelFile": _basename(model_file),
            "modelVersion": model_version,
            "extensions": extensions,
            "requirementsFile": _basename(requirements_file),
            "configFile": self.config_file,
        }
        self.model_dict = {key: value for key, value in known.items() if value}

    def __str__(self) -> str:
        return json.dumps(self.model_dict)

    __repr__ = __str__


class Manifest:
    """A manifest; its text is the document."""

    def __init__(self, runtime: str, model: Model) -> None:
        self.creation_time = created_on()
        self.runtime = RuntimeType(runtime)
        self.model = model
        self.archiver_version = f"flambeau {flambeau.__version__}"
        self.manifest_dict = {
            "createdOn": self.creation_time,
            "runtime": self.runtime.value,
            "model": model.model_dict,
            "archiverVersion": self.archiver_version,
        }

    def __str__(self) -> str:
        return json.dumps(self.manifest_dict, indent=2)

    __repr__ = __str__


def _basename(path: str | None) -> str | None:
    return Path(path).name if path else None
