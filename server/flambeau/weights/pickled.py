"""The only place that unpickles, and only for a model whose YAML says so.

A pickle is a program: reading it runs whatever its author wrote. So weights are read as tensors and
nothing else, until the archive's YAML states that its author is trusted. Workers start with
PyTorch's own switch set, so that this holds for a handler's code as well, and for what PyTorch's
readers of other files fall back to:

    handler:
      allow_pickle: true
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from flambeau.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

# https://docs.pytorch.org/docs/stable/notes/serialization.html, environment variables
FORBIDDING = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
ALLOWING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

WAY_OUT = (
    "if you trust the file's author, write `handler: {allow_pickle: true}` into the model's YAML"
)


def is_allowed(model_yaml: Mapping[str, Any]) -> bool:
    """Whether the YAML's `handler.allow_pickle` is true; without one it is not.

    Raises:
        ArchiveError: It is neither true nor false.
    """
    settings = model_yaml.get("handler")
    allowed = settings.get("allow_pickle", False) if isinstance(settings, dict) else False
    if isinstance(allowed, bool):
        return allowed
    raise ArchiveError(f"handler.allow_pickle is {allowed!r}; write true or false")


def allow_in_this_process() -> None:
    """Let `torch.load` in a handler's own code unpickle, unless the call itself decides.

    By PyTorch's own switches, which it reads at every call; a worker serves one model.
    """
    os.environ.pop(FORBIDDING, None)
    os.environ[ALLOWING] = "1"


def forbidden(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which `torch.load` reads tensors only, whatever a call says."""
    kept = {key: value for key, value in environment.items() if key != ALLOWING}
    return kept | {FORBIDDING: "1"}


def refusal(error: Exception) -> str:
    """Why `torch.load` did not read a file with `weights_only`, in a line.

    PyTorch's own page of text says first how to load the file without it.
    """
    text = str(error).strip()
    if found := re.search(r"\bGLOBAL ([\w.]+)", text):
        return f"it names {found[1]}, which is neither a tensor nor plain data"
    first_line = text.rpartition("WeightsUnpickler error: ")[2].partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"


def load(path: Path, *, device: torch.device) -> object:
    """Unpickle a file of `torch.save`; whatever code it names is run.

    Raises:
        Exception: Whatever that code raises.
    """
    import torch  # noqa: PLC0415  # the settings above are read where there is no torch

    loaded: object = torch.load(path, map_location=device, weights_only=False)
    return loaded
