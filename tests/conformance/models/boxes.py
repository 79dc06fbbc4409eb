"""A detector that finds one box per channel, as certain as the channel is bright."""

from __future__ import annotations

import torch
from torch import nn


class Boxes(nn.Module):
    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        corner = torch.tensor([1.0, 2.0])
        return [
            {
                "boxes": torch.stack(
                    [torch.cat([corner + channel, corner * 4]) for channel in range(3)]
                ),
                "labels": torch.tensor([1, 2, 3]),
                "scores": image.mean(dim=(1, 2)),
            }
            for image in images
        ]
