from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import nn

from training.card import card, class_scores, confusion, draw_confusion
from training.checkpoint import load
from training.config import TrainConfig
from training.errors import TrainingError
from training.train import TrainResult, train

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


def test_a_run_leaves_a_card_and_pictures_of_its_best_model(
    iris: TrainConfig, trained: TrainResult
) -> None:
    text = (iris.output / "card.md").read_text(encoding="utf-8")
    checkpoint = load(trained.best_checkpoint)
    assert text.startswith("# mlp on tabular\n")
    assert "Input: 4 numbers, in the units of the data." in text
    assert f"{trained.best_metrics['val_accuracy']:.2%} of 30 held-out\nsamples are right" in text
    assert "| setosa | 10 |" in text
    assert f"sha256 `{checkpoint['data_digest']}`" in text
    assert "- optimizer.lr = 0.05" in text
    for name in ("confusion.png", "curves.png"):
        with Image.open(iris.output / name) as image:
            assert min(image.size) > 300
    events = EventAccumulator(str(iris.output), size_guidance={"images": 0}).Reload()
    assert events.Images("confusion")


def test_the_card_counts_what_its_table_does(trained: TrainResult) -> None:
    checkpoint = load(trained.best_checkpoint)
    text = card(checkpoint, np.eye(3, dtype=np.int64) * 7)
    assert "of 21 held-out\nsamples are" in text
    assert text.count("| 1.000 | 1.000 | 1.000 |") == 3


def test_many_classes_have_no_room_for_names() -> None:
    few, many = (
        draw_confusion(np.eye(count, dtype=np.int64), [f"class {n}" for n in range(count)])
        for count in (3, 31)
    )
    assert len(few.axes[0].texts) == 3
    assert not many.axes[0].texts


def test_a_card_that_cannot_be_written_is_named(iris: TrainConfig) -> None:
    (iris.output / "card.md").mkdir(parents=True)
    with pytest.raises(TrainingError, match=f"cannot write the card in {iris.output}"):
        train(iris)


def test_a_path_is_not_in_the_card(iris: TrainConfig, trained: TrainResult) -> None:
    assert str(Path(iris.output)) not in (iris.output / "card.md").read_text(encoding="utf-8")
    assert trained.best_checkpoint.exists()
