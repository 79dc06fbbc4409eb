"""How well a trained model does on samples that it has not learnt from, by class.

Shapes: K = classes; a confusion matrix KK counts samples by true class (rows) and predicted one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from training.checkpoint import Checkpoint
    from training.splits import IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """How well one class is told from the others.

    Attributes:
        name: Of the class.
        support: Held-out samples of it.
        precision: The part of what is taken for it that is; 0 when nothing is.
        recall: The part of it that is taken for it; 0 when it has no samples.
    """

    name: str
    support: int
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@torch.no_grad()
def confusion(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    num_classes: int,
    device: torch.device,
) -> IntArray:
    """Count what each class is taken for.

    Args:
        model: On the device; it is put into evaluation mode.
        batches: Inputs and class indices.
        num_classes: K.
        device: Where to compute.

    Returns:
        int64, (K, K), by true class and predicted class.
    """
    model.eval()
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64)
    for x, labels_B in batches:
        predicted_B = model(x.to(device)).argmax(dim=1).cpu()
        counts += torch.bincount(labels_B * num_classes + predicted_B, minlength=len(counts))
    return counts.reshape(num_classes, num_classes).numpy()


def class_scores(matrix_KK: IntArray, classes: Sequence[str]) -> list[ClassScore]:
    """The scores of every class, in the classes' order."""
    right_K = np.diag(matrix_KK)
    precision_K = right_K / np.maximum(1, matrix_KK.sum(axis=0))
    recall_K = right_K / np.maximum(1, matrix_KK.sum(axis=1))
    return [
        ClassScore(name=name, support=int(support), precision=float(p), recall=float(r))
        for name, support, p, r in zip(
            classes, matrix_KK.sum(axis=1), precision_K, recall_K, strict=True
        )
    ]


def accuracy(matrix_KK: IntArray) -> float:
    """The share of all samples that are taken for what they are."""
    return float(np.trace(matrix_KK) / matrix_KK.sum())


def scores_json(checkpoint: Checkpoint, matrix_KK: IntArray) -> str:
    """What the best checkpoint makes of the test split, as JSON: `test.json` of a run."""
    document = {
        "epoch": checkpoint["epoch"],
        "num_samples": int(matrix_KK.sum()),
        "accuracy": accuracy(matrix_KK),
        "classes": [
            {**asdict(score), "f1": score.f1}
            for score in class_scores(matrix_KK, checkpoint["classes"])
        ],
    }
    return json.dumps(document, indent=2) + "\n"
