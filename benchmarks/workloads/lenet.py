"""LeNet for 28 x 28 grey pixels: the small model with which a server's own cost shows most.

Weights and samples are made by seed: what it answers does not matter, only that all answer alike.

Shapes: B = batch, F = features, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_PIXELS: Final = 28 * 28
NUM_CLASSES: Final = 10


class LeNet(nn.Module):
    """LeCun et al. 1998 with ReLU and max pooling, from pixels to probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, NUM_CLASSES)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Probabilities, float32, (B, K), of float32 pixels, (B, 784)."""
        x_BCHW = x_BF.reshape(-1, 1, 28, 28)
        x_BCHW = F.max_pool2d(F.relu(self.conv1(x_BCHW)), 2)  # (B, 6, 14, 14)
        x_BCHW = F.max_pool2d(F.relu(self.conv2(x_BCHW)), 2)  # (B, 16, 5, 5)
        hidden_BF = F.relu(self.fc1(x_BCHW.flatten(1)))
        logits_BK: Tensor = self.fc3(F.relu(self.fc2(hidden_BF)))
        return logits_BK.softmax(1)


def make_lenet(*, seed: int = 0) -> LeNet:
    """The model, ready to be called; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LeNet()
        nn.init.normal_(model.fc3.weight)  # so that classes differ
    return model.eval()


def images(num: int, *, seed: int = 0) -> Tensor:
    """Pixels of 0 to 1, float32, (B, 784), with four digits each as people write them in JSON."""
    pixels = np.random.default_rng(seed).random((num, NUM_PIXELS)).round(4)
    return torch.from_numpy(pixels.astype(np.float32))
