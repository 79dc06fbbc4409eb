from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from training.scores import accuracy, class_scores, confusion

MATRIX = np.array([[8, 2, 0], [1, 9, 0], [0, 5, 0]])


class Echo(nn.Module):
    """Predicts the class that its input says."""

    def forward(self, x_B1: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(x_B1[:, 0].long(), 3).float()


def test_samples_are_counted_by_true_and_predicted_class() -> None:
    said = torch.tensor([[0.0], [1], [1], [2], [0]])
    labels_B = torch.tensor([0, 1, 0, 0, 2])
    batches = [(said[:3], labels_B[:3]), (said[3:], labels_B[3:])]
    found = confusion(Echo(), batches, num_classes=3, device=torch.device("cpu"))
    assert found.tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 0]]


def test_scores_are_what_their_names_say() -> None:
    first, second, third = class_scores(MATRIX, ["a", "b", "c"])
    assert (first.name, first.support) == ("a", 10)
    assert (first.precision, first.recall) == pytest.approx((8 / 9, 0.8))
    assert second.precision == pytest.approx(9 / 16)
    assert second.f1 == pytest.approx(2 * (9 / 16) * 0.9 / (9 / 16 + 0.9))
    assert (third.precision, third.recall, third.f1) == (0, 0, 0)  # never predicted


def test_accuracy_is_the_share_of_what_is_right() -> None:
    assert accuracy(MATRIX) == pytest.approx(17 / 25)
