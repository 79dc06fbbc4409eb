"""A model that computes in bfloat16 where PyTorch thinks that safe, and answers in float32."""

from __future__ import annotations

from typing import Any

import torch


class Narrow:
    """Calls a model under autocast."""

    def __init__(self, model: Any, *, device: torch.device) -> None:  # noqa: ANN401  # any callable
        self._model = model
        self._device_type = device.type

    def __call__(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401  # the model's
        """The model's outputs, those in bfloat16 as float32."""
        with torch.autocast(self._device_type, dtype=torch.bfloat16):
            return _widened(self._model(*inputs, **named))


def _widened(output: Any) -> Any:  # noqa: ANN401  # a tensor, or a structure of them
    match output:
        case torch.Tensor():
            return output.float() if output.dtype is torch.bfloat16 else output
        case dict():
            return {key: _widened(value) for key, value in output.items()}
        case tuple():
            return tuple(_widened(value) for value in output)
        case list():
            return [_widened(value) for value in output]
        case _:
            return output
