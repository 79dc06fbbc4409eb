from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from training.card import card, draw_confusion
from training.checkpoint import load
from training.config import TrainConfig
from training.errors import TrainingError
from training.train import TrainResult, train


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
