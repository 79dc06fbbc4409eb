"""The data sets by name, and how much their classes count; each kind has a file of its own.

`image_data.py` has digits, MNIST and image folders, `tables.py` tables, `text.py` texts;
`splits.py` says what they have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from flambeau.image import ImageTransform
from training.config import TextConfig
from training.image_data import load_digits, load_image_folder, load_mnist, write_png_samples
from training.splits import DataSet, IntArray, Split
from training.tables import TableSplit, load_tabular
from training.text import load_code_lines, load_text

if TYPE_CHECKING:
    from training.config import DataConfig, ImageConfig

__all__ = [
    "DataSet",
    "IntArray",
    "Split",
    "TableSplit",
    "class_weights",
    "load_data",
    "write_png_samples",
]


def load_data(config: DataConfig, *, image: ImageConfig, text: TextConfig | None = None) -> DataSet:
    """Read a data set and split it.

    Args:
        config: Which, and how it is split.
        image: From an image to a tensor.
        text: From a text to a tensor; None for the defaults.

    Raises:
        DataError: Files are missing or damaged; the message names the path and the next step.
        ConfigError: The data has no such column.
    """
    if config.name == "tabular":
        return load_tabular(config)
    if config.name == "code_lines":
        return load_code_lines(config, text or TextConfig())
    if config.name == "digits":
        return load_digits(config, transform=_transform(image))
    assert config.root is not None  # DataConfig checks it
    if config.name == "text":
        return load_text(config, text or TextConfig(), root=config.root)
    load = load_mnist if config.name == "mnist" else load_image_folder
    return load(config, root=config.root, transform=_transform(image))


def class_weights(data: DataSet, *, kind: Literal["none", "balanced"]) -> torch.Tensor | None:
    """How much a sample of each class counts in the loss; None if all count alike.

    Returns:
        float32, (K,), for K classes: inverse to how many training samples a class has, and 1 on
        average over samples.
    """
    if kind == "none":
        return None
    counts_K = np.bincount(data.train.labels_N, minlength=len(data.classes))
    weights_K = len(data.train) / (len(data.classes) * counts_K)
    return torch.from_numpy(weights_K.astype(np.float32))


def _transform(image: ImageConfig) -> ImageTransform:
    return ImageTransform(
        mode=image.mode,
        resize=image.resize,
        size=(image.size, image.size),
        mean=image.mean,
        std=image.std,
    )
