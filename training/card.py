"""What to know about a trained model, beside its checkpoints: a model card, and pictures.

    test.json       the scores again, where there is a test split
    card.md         what it is, what it was trained on, how well it does, by class
    confusion.png   what each class is taken for
    curves.png      loss and accuracy by epoch

Shapes: K = classes; a confusion matrix KK counts samples by true class (rows) and predicted one.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from training.config import TrainConfig
from training.errors import TrainingError
from training.scores import accuracy, class_scores, scores_json
from training.settings import flatten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from training.checkpoint import Checkpoint
    from training.splits import IntArray

_MANY_CLASSES = 30  # more are not labelled in the picture


def write_card(
    directory: Path, checkpoint: Checkpoint, matrix_KK: IntArray, *, is_test: bool = False
) -> Figure:
    """Write these files.

    Args:
        directory: Of the run; its `metrics.csv` is drawn.
        checkpoint: The best one, which the card is about.
        matrix_KK: What it makes of the held-out samples.
        is_test: Whether those are the test split, which had no part in choosing it.

    Returns:
        The picture of the matrix, for TensorBoard.

    Raises:
        TrainingError: A file cannot be written.
    """
    picture = draw_confusion(matrix_KK, checkpoint["classes"])
    text = card(checkpoint, matrix_KK, is_test=is_test)
    try:
        picture.savefig(directory / "confusion.png", dpi=120)
        draw_curves(directory / "metrics.csv").savefig(directory / "curves.png", dpi=120)
        (directory / "card.md").write_text(text, encoding="utf-8")
        if is_test:
            report = scores_json(checkpoint, matrix_KK)
            (directory / "test.json").write_text(report, encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot write the card in {directory}: {error.strerror}") from error
    return picture


def card(checkpoint: Checkpoint, matrix_KK: IntArray, *, is_test: bool = False) -> str:
    """The model card, in Markdown."""
    config = TrainConfig.from_mapping(checkpoint["config"])
    num_weights = sum(each.numel() for each in checkpoint["model_state_dict"].values())
    rows = [
        f"| {score.name} | {score.support} | {score.precision:.3f} | {score.recall:.3f} | "
        f"{score.f1:.3f} |\n"
        for score in class_scores(matrix_KK, checkpoint["classes"])
    ]
    return f"""\
# {config.model.name} on {config.data.name}

Classifies into {len(checkpoint["classes"])} classes. Input: {_input(checkpoint)}.
{num_weights:,} weights, from `{checkpoint["model"]["factory"]}`.

## How well

{_how_well(checkpoint, matrix_KK, is_test=is_test)}

| class | samples | precision | recall | F1 |
|---|---:|---:|---:|---:|
{"".join(rows)}
![What each class is taken for](confusion.png)

![Loss and accuracy by epoch](curves.png)

## Where it comes from

- data: sha256 `{checkpoint["data_digest"]}`
- code: {checkpoint["git_commit"] or "outside a repository"}, PyTorch {checkpoint["torch_version"]}
{"".join(_settings(config))}"""


def draw_confusion(matrix_KK: IntArray, classes: Sequence[str]) -> Figure:
    """Shares of each true class, as a picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # takes a second, at the end of a run

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    shares_KK = matrix_KK / np.maximum(1, matrix_KK.sum(axis=1, keepdims=True))
    figure.colorbar(axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1))
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= _MANY_CLASSES:
        places = range(len(classes))
        axes.set_xticks(places, labels=classes, rotation=90)
        axes.set_yticks(places, labels=classes)
        for row, column in zip(*np.nonzero(matrix_KK), strict=True):
            colour = "white" if shares_KK[row, column] > 0.5 else "black"
            text = str(matrix_KK[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return figure


def draw_curves(path: Path) -> Figure:
    """The columns of `metrics.csv` by epoch, as a picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # takes a second, at the end of a run

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, label in (("train", "training"), ("val", "held out")):
            axes.plot(epochs, [float(row[f"{split}_{name}"]) for row in rows], label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend()
    return figure


def _how_well(checkpoint: Checkpoint, matrix_KK: IntArray, *, is_test: bool) -> str:
    best = checkpoint["metrics"]
    if is_test:
        return f"""\
{accuracy(matrix_KK):.2%} of {matrix_KK.sum():,} test samples are right. They had no part in
training, nor in choosing epoch {checkpoint["epoch"]}, after which {best["val_accuracy"]:.2%} of
the validation samples were right, with a loss of {best["val_loss"]:.4f}."""
    return f"""\
After epoch {checkpoint["epoch"]}, {best["val_accuracy"]:.2%} of {matrix_KK.sum():,} held-out
samples are right; their loss is {best["val_loss"]:.4f}. They also chose this epoch, so that new
ones may do a little worse."""


def _input(checkpoint: Checkpoint) -> str:
    if "tokenizer" in checkpoint:
        tokenizer = checkpoint["tokenizer"]
        return (
            f"text, of which {tokenizer['max_tokens']} tokens of {len(tokenizer['tokens'])} count"
        )
    if checkpoint["feature_names"] is not None:
        names = checkpoint["feature_names"]
        num_categories = len(checkpoint.get("categories", ()))
        also = f", {num_categories} of them numbers of categories" if num_categories else ""
        return f"{len(names)} numbers, in the units of the data{also}"
    shape = " x ".join(map(str, checkpoint["input"]["shape"]))
    return f"{checkpoint['input']['dtype']}, {shape}"


def _settings(config: TrainConfig) -> list[str]:
    """Those that differ from the defaults, but for where things are."""
    defaults = flatten(TrainConfig().to_mapping())
    given = flatten(config.to_mapping())
    return [
        f"- {key} = {value}\n"
        for key, value in given.items()
        if value != defaults[key] and key not in {"output", "resume", "data.root"}
    ]
