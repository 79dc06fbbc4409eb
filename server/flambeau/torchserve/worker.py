"""The worker process for archives made for TorchServe: `python -m flambeau.torchserve.worker`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flambeau import worker
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.model_yaml import read_model_yaml

if TYPE_CHECKING:
    from flambeau.loading import EntryPoint
    from flambeau.messages import LoadModel

_UPSTREAM: Final = "torchserve"  # a registration's `handler`, or a YAML's `runner`


def load_entry_point(load: LoadModel) -> EntryPoint:
    """What `loading.load_handler` does; it imports torch, so not before the worker may."""
    from flambeau.torchserve.loading import load_handler  # noqa: PLC0415  # as above

    if wants_upstream(load):
        from flambeau.torchserve.upstream_runner import load_runner  # noqa: PLC0415  # few do

        return load_runner(load)
    return load_handler(load)


def wants_upstream(load: LoadModel) -> bool:
    """Whether the original TorchServe is to answer: the registration or the YAML says so."""
    if load.handler is not None:
        return load.handler == _UPSTREAM
    manifest_path = Path(load.model_dir) / MANIFEST_PATH
    if not manifest_path.is_file():
        return False
    config_file = Manifest.from_json(manifest_path.read_bytes()).config_file
    return read_model_yaml(Path(load.model_dir), config_file).get("runner") == _UPSTREAM


def prepare() -> None:
    """Import what most of these archives need."""
    importlib.import_module("flambeau.torchserve.loading")


if __name__ == "__main__":
    sys.exit(worker.main(load_entry_point=load_entry_point, prepare=prepare))
