"""Networks for images that need no training: what they answer depends on the mean colour."""

from __future__ import annotations

import torch
from torch import nn


class Pixels(nn.Module):
    """Six classes out of the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 6, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.linspace(-1.0, 1.0, 18).reshape(6, 3))

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.linear(images_BCHW.mean(dim=(2, 3))))
