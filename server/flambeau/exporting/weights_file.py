"""The weights in whatever training left: one file, or a directory of shards.

- our checkpoint, or any dict of `torch.save` with weights under `model_state_dict`, `state_dict`
  (Lightning), `model` or `module`; or a plain state dict
- safetensors, in one file, or in several with `model.safetensors.index.json` (Hugging Face)
- a directory of `torch.distributed.checkpoint`, as FSDP saves it, with `.metadata` in it
- a directory of DeepSpeed's, with the shares of all ranks

Nothing in them is executed: pickles may hold tensors and plain data only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from flambeau.errors import ExportError
from flambeau.exporting import plain_pickle, sharded, zero_shards

if TYPE_CHECKING:
    from pathlib import Path

_WEIGHTS_KEYS = ("model_state_dict", "state_dict", "model", "module")
_INDEX = "model.safetensors.index.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")


def read_content(path: Path) -> dict[str, Any]:
    """What a file or directory holds, on the CPU: weights by name, or a dict with them in it.

    Raises:
        ExportError: There is none, it is damaged, or it holds more than tensors and plain data.
    """
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise ExportError(f"checkpoint {path} does not exist; give the file that training wrote")
    if path.suffix == ".safetensors":
        return dict(_read_safetensors(path))
    return plain_pickle.read(path)


def weights_in(content: Mapping[str, Any], *, path: Path) -> dict[str, torch.Tensor]:
    """The weights of what `read_content` read.

    Raises:
        ExportError: It holds none.
    """
    for key in _WEIGHTS_KEYS:
        if isinstance(content.get(key), Mapping) and _are_weights(content[key]):
            return dict(content[key])
    if _are_weights(content):
        return dict(content)
    shown = ", ".join(list(map(str, content))[:8])
    raise ExportError(
        f"{path} has no weights: it holds {shown}; give a state dict, or a dict with one under "
        f"{', '.join(_WEIGHTS_KEYS)}"
    )


def _are_weights(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(item, torch.Tensor) for item in value.values())


def _read_directory(path: Path) -> dict[str, Any]:
    if (path / ".metadata").is_file():
        return sharded.read(path)
    if (path / _INDEX).is_file():
        return _read_indexed(path)
    for name in _WHOLE:
        if (path / name).is_file():
            return read_content(path / name)
    if zero_shards.is_zero(path):
        return dict(zero_shards.read(path))
    raise ExportError(
        f"{path} is a directory without .metadata, DeepSpeed's shards, {_INDEX} or "
        f"{', '.join(_WHOLE)}; give the checkpoint itself"
    )


def _read_indexed(path: Path) -> dict[str, Any]:
    """Several files, and which weights are in which."""
    try:
        places = json.loads((path / _INDEX).read_bytes())["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path / _INDEX} is no index of weights: {error!r}") from error
    weights: dict[str, Any] = {}
    for name in names:
        if "/" in name or name.startswith("."):
            raise ExportError(f"{path / _INDEX} names {name!r}, which is not a file beside it")
        weights |= _read_safetensors(path / name)
    if missing := sorted(set(places) - set(weights)):
        raise ExportError(f"{path} lacks {', '.join(missing[:8])}, which its index names")
    return weights


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ExportError(f"{path} is not safetensors, or is damaged: {error}") from error
