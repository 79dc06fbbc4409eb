"""Reads files of `torch.save` that hold tensors and plain data; nothing in them is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from flambeau.errors import ExportError
from flambeau.weights import pickled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read(path: Path, *, classes: Sequence[tuple[type, str]] = ()) -> dict[str, Any]:
    """The dict in a file, on the CPU.

    Args:
        path: The file.
        classes: For names of other classes that may be in it, e.g. `deepspeed.x.Y`, what is made
            instead.

    Raises:
        ExportError: It is damaged, holds more than that, or no dict.
    """
    try:
        with torch.serialization.safe_globals([*classes]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen kinds
        raise ExportError(
            f"{path} is no checkpoint that loads safely, or is damaged ({pickled.refusal(error)}); "
            "it must hold tensors and plain data only"
        ) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} holds {type(content).__name__}, not a checkpoint's dict")
    return cast("dict[str, Any]", content)
