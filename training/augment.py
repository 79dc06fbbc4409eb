"""Training images moved and turned a little, so that a small data set teaches more.

Shapes: B = batch, C = channels, H, W = height and width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def shift_and_rotate(x_BCHW: Tensor, *, max_shift: float, max_rotation_deg: float) -> Tensor:
    """Move and turn each image by its own random amounts; what comes into view repeats the edge.

    The amounts come from torch's generator on the CPU, whose state checkpoints keep.

    Args:
        x_BCHW: Images on any device; not changed.
        max_shift: Up to this part of the side, in both directions.
        max_rotation_deg: Up to this angle, either way.
    """
    if max_shift == 0 and max_rotation_deg == 0:
        return x_BCHW
    random_3B = torch.rand(3, len(x_BCHW)) * 2 - 1
    angle_B = random_3B[0] * math.radians(max_rotation_deg)
    shift_2B = random_3B[1:] * 2 * max_shift  # the grid below is 2 wide: from -1 to 1
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    rows = (
        torch.stack((cos_B, -sin_B, shift_2B[0]), dim=1),
        torch.stack((sin_B, cos_B, shift_2B[1]), dim=1),
    )
    theta_B23 = torch.stack(rows, dim=1).to(x_BCHW)
    grid_BHW2 = F.affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid_BHW2, padding_mode="border", align_corners=False)
