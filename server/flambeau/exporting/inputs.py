"""Samples from files, or made up: what an export compares on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.torch
import torch

from flambeau.errors import ExportError
from flambeau.exporting.interface import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

NUM_MADE_UP = 8
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def read_inputs(path: Path, *, flag: str) -> tuple[torch.Tensor, ...]:
    """The inputs in a file.

    Args:
        path: `.safetensors`, whose tensors are the inputs in the order of their names, or `.npy`.
        flag: What it was given by, for messages.

    Raises:
        ExportError: It cannot be read.
    """
    try:
        if path.suffix == ".npy":
            return (torch.from_numpy(np.load(path, allow_pickle=False)),)
        named = safetensors.torch.load_file(path)
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ExportError(f"{flag} {path} cannot be read: {error}") from error
    return tuple(named[name] for name in sorted(named))


def made_up(text: str) -> torch.Tensor:
    """Samples of one input, equal at each call: normal numbers, or zeros and ones if whole.

    Args:
        text: Shape of one sample: `3,224,224` or `128:int64`; float32 if nothing is said.

    Raises:
        ExportError: It is none.
    """
    shape, _, dtype_name = text.partition(":")
    dtype = _DTYPES.get(dtype_name or "float32")
    try:
        sizes = [int(size) for size in shape.split(",")] if shape else []
    except ValueError:
        sizes = [0]
    if dtype is None or any(size < 1 for size in sizes):
        raise ExportError(
            f"--input {text!r} is not SHAPE[:DTYPE]; write e.g. 3,224,224 or 128:int64, with one "
            f"of {', '.join(sorted(_DTYPES))}"
        )
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(NUM_MADE_UP, *sizes, generator=generator).to(dtype)
    return torch.randint(2, (NUM_MADE_UP, *sizes), generator=generator).to(dtype)
