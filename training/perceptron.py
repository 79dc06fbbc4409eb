"""A perceptron for tables, with the preparation of raw columns inside, so that clients need none.

Shapes: B = batch, F = columns, E = inputs after categories have got one each, K = classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class OneHot(nn.Module):
    """Columns with numbers as they are, and one input per category of the others.

    Args:
        num_categories: Of each column; 0 where it has numbers.
    """

    def __init__(self, num_categories: Sequence[int]) -> None:
        super().__init__()
        self.column_E: Tensor  # here, as torch.jit.script reads no annotation of the class
        self.category_E: Tensor
        inputs = [
            (column, category)
            for column, count in enumerate(num_categories)
            for category in (range(1, count + 1) if count else [0])
        ]
        self.register_buffer("column_E", torch.tensor([column for column, _ in inputs]))
        self.register_buffer("category_E", torch.tensor([category for _, category in inputs]))
        self.num_inputs = len(inputs)

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BE = x_BF[:, self.column_E]
        return torch.where(self.category_E == 0, x_BE, (x_BE == self.category_E).to(x_BE.dtype))


class MLP(nn.Module):
    """Fully connected layers that take raw features: standardising is part of the model."""

    def __init__(
        self,
        *,
        num_features: int,
        num_classes: int,
        hidden: Sequence[int],
        dropout: float,
        num_categories: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.mean_F: Tensor
        self.std_F: Tensor
        self.register_buffer("mean_F", torch.zeros(num_features))
        self.register_buffer("std_F", torch.ones(num_features))
        self.one_hot = OneHot(num_categories) if num_categories else None
        layers: list[nn.Module] = []
        width = num_features if self.one_hot is None else self.one_hot.num_inputs
        for next_width in hidden:
            layers += nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: float32, (B, F), in the units of the data; of a category, its number.

        Returns:
            float32 logits, (B, K).
        """
        x_BE = (x - self.mean_F) / self.std_F
        if self.one_hot is not None:
            x_BE = self.one_hot(x_BE)
        logits_BK: Tensor = self.layers(x_BE)
        return logits_BK
