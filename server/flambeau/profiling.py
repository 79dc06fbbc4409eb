"""Traces of batches; `handler.py` says when they are written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def profiler(model_name: str, arguments: Mapping[str, Any]) -> torch.profiler.profile:
    """A profiler that writes Chrome's JSON to `pytorch_profiler/<model>` in the temporary folder.

    Args:
        model_name: The model's name.
        arguments: For `torch.profiler.profile`; they win over what is said here.
    """
    folder = Path(tempfile.gettempdir()) / "pytorch_profiler" / model_name
    defaults: dict[str, Any] = {
        "record_shapes": True,
        "on_trace_ready": torch.profiler.tensorboard_trace_handler(str(folder)),
    }
    return torch.profiler.profile(**{**defaults, **arguments})
