"""Loss and accuracy summed on the device, over batches and then over ranks.

Shapes: B = batch, K = classes, S = steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor


class Totals:
    """Sums over the batches so far. Reading a number waits for the device; adding does not."""

    def __init__(self, *, fabric: Fabric) -> None:
        self._fabric = fabric
        self._sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)

    def add(self, logits_BK: Tensor, labels_B: Tensor, *, loss: Tensor) -> None:
        """Count a batch.

        Args:
            logits_BK: Scores.
            labels_B: Class indices.
            loss: Mean over the batch.
        """
        num_samples = len(labels_B)
        correct = (logits_BK.argmax(dim=1) == labels_B).sum()
        self._sums[0] += loss.detach() * num_samples
        self._sums[1] += correct
        self._sums[2] += num_samples

    def reduce(self) -> None:
        """Sum over ranks; call it on all of them."""
        if self._fabric.world_size > 1:
            dist.all_reduce(self._sums)

    @property
    def loss(self) -> float:
        return float(self._sums[0] / self._sums[2])

    @property
    def accuracy(self) -> float:
        return float(self._sums[1] / self._sums[2])

    @property
    def num_samples(self) -> int:
        return int(self._sums[2])


def mean_over_ranks(losses: list[Tensor], *, fabric: Fabric) -> list[float]:
    """The losses of the last steps, each the mean over ranks, so that all ranks see the same."""
    losses_S = torch.stack(losses)
    if fabric.world_size > 1:
        dist.all_reduce(losses_S)
        losses_S /= fabric.world_size
    values: list[float] = losses_S.tolist()
    return values
