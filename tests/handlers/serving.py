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


def answers(instance: ModelInstance, *requests: Input, raw: bool = False) -> list[Any]:
    """Answers to requests of one input each, in one batch: parsed, or as bytes if `raw`.

    Failures are as they are.
    """
    return ask(instance, *(InferenceRequest("id", [], [request]) for request in requests), raw=raw)


def explanations(instance: ModelInstance, *inputs: Input) -> list[Any]:
    """What a request for an explanation is answered with."""
    return ask(instance, InferenceRequest("id", [("explain", "True")], list(inputs)))


def ask(instance: ModelInstance, *requests: InferenceRequest, raw: bool = False) -> list[Any]:
    """Answers to one batch, as `answers` gives them."""
    return [_body(result, raw=raw) for result in instance.run(RunBatch(1, list(requests))).results]


def _body(result: Reply | Failure, *, raw: bool) -> Any:  # noqa: ANN401  # JSON
    if isinstance(result, Failure):
        return result
    return bytes(result.body) if raw else json.loads(bytes(result.body))
