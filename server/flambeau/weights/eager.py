"""Eager models: a Python file that defines the class, and a state dict with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from flambeau.errors import ArchiveError
from flambeau.module_files import classes_defined_in, load_module
from flambeau.weights import pickled

if TYPE_CHECKING:
    from pathlib import Path

_SAVE_AGAIN = "save it again with torch.save(model.state_dict(), ...)"


def make_model(path: Path) -> torch.nn.Module:
    """Make the one model that a Python file defines, without arguments.

    Raises:
        ArchiveError: There is no such file, or not exactly one `nn.Module` class in it.
        Exception: Whatever the file or the class raises.
    """
    if not path.is_file():
        raise ArchiveError(
            f"the manifest names model file {path.name!r}, which is not in the archive; build it "
            "again with --model-file"
        )
    defined = classes_defined_in(load_module(path))
    classes = [value for value in defined if issubclass(value, torch.nn.Module)]
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise ArchiveError(
            f"Expected only one class as model definition. {path.name} defines these nn.Module "
            f"classes: {names}; keep exactly one in it and import its parts from another file"
        )
    return classes[0]()


def read_state_dict(
    path: Path, *, device: torch.device, allow_pickle: bool = False
) -> Mapping[str, Any]:
    """Weights by name, on `device`, from a file of `torch.save` or a `.safetensors` file.

    Args:
        path: The file.
        device: Where the tensors are put.
        allow_pickle: Whether a file that holds more than tensors may run code to make it.

    Raises:
        ArchiveError: There is no such file, it is damaged, holds more than tensors, or no state
            dict; the message names the way out.
        torch.OutOfMemoryError: The device is full.
    """
    if not path.is_file():
        raise ArchiveError(
            f"the manifest names weights {path.name!r}, which are not in the archive; build it "
            "again with --serialized-file"
        )
    weights = _read(path, device, allow_pickle=allow_pickle)
    if isinstance(weights, Mapping):
        return weights
    raise ArchiveError(
        f"{path.name} holds a {type(weights).__name__}, not a state dict; {_SAVE_AGAIN}"
    )


def _read(path: Path, device: torch.device, *, allow_pickle: bool) -> object:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path, device=str(device))
        except safetensors.SafetensorError as error:
            raise ArchiveError(f"{path.name} is damaged ({error}); save it again") from error
    if allow_pickle:
        return pickled.load(path, device=device)
    try:
        weights: object = torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # unpickling raises many kinds
        raise ArchiveError(
            f"{path.name} holds more than tensors, or is damaged, and is not loaded, as that could "
            f"run code ({pickled.refusal(error)}); {_SAVE_AGAIN}, or, {pickled.WAY_OUT}"
        ) from error
    return weights
