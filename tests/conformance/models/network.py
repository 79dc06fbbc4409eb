"""The network of the eager archives: two inputs, three outputs, weights that are easy to check."""

from __future__ import annotations

import torch
from torch import nn


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3, bias=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.linear(values))
