"""Archives with a built-in handler, loaded and asked in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flambeau import torchscript
from flambeau.instance import ModelInstance
from flambeau.loading import load_handler
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import Failure, InferenceRequest, Input, LoadModel, Reply, RunBatch


def serve(
    root: Path,
    model: torch.nn.Module,
    *,
    handler: str,
    yaml: str | None = None,
    files: Mapping[str, str | bytes] | None = None,
) -> ModelInstance:
    """An archive with this model as a TorchScript program, loaded.

    Args:
        root: An empty folder; made if it is not there.
        model: The model; it is scripted.
        handler: The handler's name.
        yaml: The text of its YAML.
        files: More of its files by name.
    """
    (root / "MAR-INF").mkdir(parents=True)
    manifest = Manifest(
        handler=handler,
        serialized_file="model.pt",
        config_file=None if yaml is None else "model-config.yaml",
    )
    (root / MANIFEST_PATH).write_text(manifest.to_json())
    torchscript.save(torchscript.script(model), root / "model.pt")
    if yaml is not None:
        (root / "model-config.yaml").write_text(yaml)
    for name, content in (files or {}).items():
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    load = LoadModel("mine", "1", str(root), None, "cpu", 8, 1, 100_000, "0.1")
    return ModelInstance.load(load, load_entry_point=load_handler)


def part(body: bytes | str, content_type: str | None = None, *, name: str = "body") -> Input:
    """One input of a request."""
    return Input(name, content_type, memoryview(body.encode() if isinstance(body, str) else body))


def answers(instance: ModelInstance, *requests: Input) -> list[Any]:
    """Parsed answers to requests of one input each, in one batch; failures as they are."""
    return ask(instance, *(InferenceRequest("id", [], [request]) for request in requests))


def explanations(instance: ModelInstance, *inputs: Input) -> list[Any]:
    """What a request for an explanation is answered with."""
    return ask(instance, InferenceRequest("id", [("explain", "True")], list(inputs)))


def ask(instance: ModelInstance, *requests: InferenceRequest) -> list[Any]:
    """Parsed answers to one batch; failures as they are."""
    results = instance.run(RunBatch(1, list(requests))).results
    return [_parsed(result) for result in results]


def _parsed(result: Reply | Failure) -> Any:  # noqa: ANN401  # JSON
    return json.loads(bytes(result.body)) if isinstance(result, Reply) else result
