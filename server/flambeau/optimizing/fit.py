"""Whether a batch is one that a form of a model was made for."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Fit:
    """The number, types, devices and sizes of a model's inputs; the first size is the batch's."""

    def __init__(self, examples: Sequence[torch.Tensor], *, max_batch_size: int) -> None:
        """Take them from inputs of any batch size."""
        self._kinds = [(each.dtype, each.device, each.shape[1:]) for each in examples]
        self._max_batch_size = max_batch_size

    def batch_size_of(self, inputs: tuple[object, ...]) -> int:
        """The size of a batch that fits, of 1 to `max_batch_size`; 0 if it does not fit."""
        if len(inputs) != len(self._kinds):
            return 0
        batch_size = 0
        for tensor, (dtype, device, shape) in zip(inputs, self._kinds, strict=True):
            if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0:
                return 0
            if tensor.dtype is not dtype or tensor.device != device or tensor.shape[1:] != shape:
                return 0
            if batch_size not in {0, tensor.shape[0]} or tensor.layout is not torch.strided:
                return 0
            batch_size = tensor.shape[0]
        return batch_size if batch_size <= self._max_batch_size else 0
