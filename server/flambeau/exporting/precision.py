"""A model in fewer bits: its weights are converted, its inputs and outputs stay as they are.

How far its outputs may be from the model's own, in shares of the largest output:

- bf16: 3 %, as for the server's own narrow forms (`optimizing/optimizer.py`). Bfloat16 keeps 8 bits
  of a number, 0.4 %, and rounds after every layer.
- fp16: 0.4 %, an eighth of that, as it keeps 3 bits more.
- int8: 10 %. Weights are one of 255 steps and activations one of 128, and a step is the same for
  small numbers as for the largest.

For all of these each sample's most probable class must be the model's, unless less is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch.utils import _pytree as pytree

from flambeau.errors import ExportError
from flambeau.exporting.int8 import quantized
from flambeau.exporting.options import Precision
from flambeau.parity import Tolerance

_SHARES: Final = {Precision.BF16: 0.03, Precision.FP16: 0.004, Precision.INT8: 0.1}
_DTYPES: Final = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def tolerance_for(precision: Precision, asked: Tolerance, *, top1: float | None) -> Tolerance:
    """What a program of this precision is held to.

    Args:
        precision: Of the program.
        asked: What is allowed anyway.
        top1: The share of samples whose class must be the same, 0 to 1; None means all of them for
            fewer bits, and what `asked` says else.
    """
    if precision is Precision.FP32:
        return asked if top1 is None else replace(asked, top1=top1)
    share = max(asked.share, _SHARES[precision])
    return replace(asked, share=share, top1=1.0 if top1 is None else top1)


def in_precision(
    model: torch.nn.Module, precision: Precision, *, calibration: Sequence[torch.Tensor]
) -> torch.nn.Module:
    """The model, or a copy with converted weights.

    Args:
        model: In evaluation mode.
        precision: Of the copy.
        calibration: Inputs, (N, ...) each, which show how large numbers become; for int8.

    Raises:
        ExportError: It cannot be converted.
    """
    if precision is Precision.INT8:
        return quantized(model, calibration)
    dtype = _DTYPES.get(precision)
    if dtype is None:
        return model
    try:
        return Reduced(copy.deepcopy(model).to(dtype), dtype=dtype)
    except Exception as error:  # the model's code runs here and may raise anything
        raise ExportError(
            f"the model cannot be converted to {precision.value}: {type(error).__name__}: {error}"
        ) from error


class Reduced(torch.nn.Module):
    """A model whose weights have fewer bits, for inputs that have not."""

    def __init__(self, model: torch.nn.Module, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self._dtype = dtype

    def around(self, model: torch.nn.Module) -> Reduced:
        """The same for another form of the model."""
        return Reduced(model, dtype=self._dtype).eval()

    def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401  # the model's
        """Floating point inputs in fewer bits, and floating point outputs as float32."""
        dtype = self._dtype
        outputs = self.model(
            *(each.to(dtype) if each.is_floating_point() else each for each in inputs)
        )
        return pytree.tree_map_only(
            torch.Tensor, lambda each: each.float() if each.dtype is dtype else each, outputs
        )
