"""DeepSpeed's inference engine around a model, for handlers that ask for it in their YAML."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from flambeau.errors import ArchiveError
from flambeau.handler import BaseHandler, device_of

if TYPE_CHECKING:
    from flambeau.context import Context

_SUFFIXES: Final = (".bin", ".pt", ".pth")


def get_ds_engine(model: Any, ctx: Context) -> Any:  # noqa: ANN401  # DeepSpeed is not typed
    """Start DeepSpeed's engine as the YAML's `deepspeed` says.

    Its keys are `config`, a JSON file of the archive, and `checkpoint`, the file that lists the
    checkpoint's parts, made when it is not there.

    Raises:
        ArchiveError: The YAML names no `config`, or no such file.
        ImportError: DeepSpeed is not installed.
    """
    model_dir = Path(ctx.system_properties["model_dir"])
    settings = ctx.model_yaml_config.get("deepspeed") or {}
    if "config" not in settings:
        raise ArchiveError("the YAML has no deepspeed.config; name a JSON file of the archive")
    config_path = model_dir / settings["config"]
    if not config_path.is_file():
        raise ArchiveError(f"deepspeed.config names {settings['config']!r}, which is not there")
    arguments: dict[str, Any] = {"config": json.loads(config_path.read_bytes())}
    if (name := settings.get("checkpoint")) is not None:
        arguments["checkpoint"] = str(model_dir / name)
        if not (model_dir / name).exists():
            create_checkpoints_json(model_dir, model_dir / name)
    deepspeed: Any = importlib.import_module("deepspeed")
    return deepspeed.init_inference(model, **arguments)


def create_checkpoints_json(model_path: str | Path, checkpoints_json: str | Path) -> None:
    """List the parts of a checkpoint in the form that DeepSpeed reads.

    Args:
        model_path: The folder with the parts: `.bin`, `.pt` and `.pth` files at any depth.
        checkpoints_json: The file to write.
    """
    parts = sorted(str(path) for path in Path(model_path).rglob("*") if path.suffix in _SUFFIXES)
    document = {"type": "ds_model", "checkpoints": parts, "version": 1.0}
    Path(checkpoints_json).write_text(json.dumps(document), encoding="utf-8")


class BaseDeepSpeedHandler(BaseHandler):
    """A handler whose subclass makes the model in `initialize`, with `get_ds_engine`."""

    def initialize(self, context: Context) -> None:
        """Read the manifest and the YAML and choose the device; no weights are loaded."""
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        self.device = device_of(context)
        if self.device.type == "cuda" and "LOCAL_RANK" in os.environ:
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self.map_location = self.device.type
