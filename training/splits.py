"""What a data set is: its splits, and which sample is in which of them.

Shapes: N = samples, T = tokens, C, H, W = channels, height and width, F = columns of a table.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, default_collate

from training.errors import DataError

if TYPE_CHECKING:
    from flambeau.image import ImageTransform
    from flambeau.tokenizer import Tokenizer
    from training.config import DataConfig

IntArray = npt.NDArray[np.int64]
Collate = Callable[[Sequence[tuple[torch.Tensor, int]]], tuple[torch.Tensor, torch.Tensor]]

_MAX_EXAMPLES = 5  # classes that a message names


class Split(Dataset[tuple[torch.Tensor, int]], ABC):
    """The samples to train on, or held-out ones; each is an input and its class index."""

    labels_N: IntArray

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]: ...

    def __len__(self) -> int:
        return len(self.labels_N)


def stacked(samples: Sequence[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of equal shapes as a batch, and their class indices, int64."""
    inputs, labels = default_collate(list(samples))
    return inputs, labels


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Everything a run and an export need to know about the data.

    Attributes:
        train: To learn from.
        val: To choose the best epoch by.
        test: To judge that choice by; None if nothing is kept for it.
        classes: Names, by class index.
        input_shape: Of one sample: (C, H, W) of an image, (F,) of a table's row, (T,) of a text as
            long as texts may be.
        input_dtype: float32, and int64 of texts.
        collate: Makes a batch of samples.
        image: How an image becomes an input; None when the data is something else.
        tokenizer: How a text becomes an input; None when the data is something else.
        feature_names: A table's columns; None when the data is something else.
        categories: Of the columns that have no numbers, by name: the values that training rows
            have, the first of which is 1 in the input, and any other value 0.
        digest: sha256 of the content, splits apart: equal digests mean equal data.
    """

    train: Split
    val: Split
    test: Split | None = None
    classes: list[str]
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype = torch.float32
    collate: Collate = stacked
    image: ImageTransform | None = None
    tokenizer: Tokenizer | None = None
    feature_names: list[str] | None = None
    categories: dict[str, list[str]] | None = None
    digest: str


class Splits(TypedDict):
    """What a `DataSet` calls its splits."""

    train: Split
    val: Split
    test: Split | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Positions of the samples of each split, in the order in which they are read.

    Attributes:
        test: None where there is no such split.
    """

    train: IntArray
    val: IntArray
    test: IntArray | None

    def splits(self, make: Callable[[IntArray], Split]) -> Splits:
        """The splits of a `DataSet`, each made from its positions."""
        test = None if self.test is None else make(self.test)
        return {"train": make(self.train), "val": make(self.val), "test": test}


def split(labels_N: IntArray, config: DataConfig) -> Parts:
    """The same share of every class into each split, mixed; `split_seed` alone decides which."""
    return _drawn(
        labels_N,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
    )


def split_rest(labels_N: IntArray, config: DataConfig, *, given: dict[str, IntArray]) -> Parts:
    """The splits that the data brings; what it lacks is drawn from those to train on.

    Args:
        labels_N: Class indices of all samples.
        config: Its shares count for the splits that are not given.
        given: Positions by split, `train` among them.
    """
    own = given["train"]
    drawn = _drawn(
        labels_N[own],
        val_fraction=0.0 if "val" in given else config.val_fraction,
        test_fraction=0.0 if "test" in given else config.test_fraction,
        seed=config.split_seed,
    )
    test = given.get("test")
    if test is None and drawn.test is not None:
        test = own[drawn.test]
    is_whole = "val" in given and (test is None or "test" in given)
    return Parts(
        train=own if is_whole else own[drawn.train],
        val=given["val"] if "val" in given else own[drawn.val],
        test=test,
    )


def _drawn(labels_N: IntArray, *, val_fraction: float, test_fraction: float, seed: int) -> Parts:
    random = np.random.RandomState(seed)  # its stream never changes; Generator's may
    parts: dict[str, list[IntArray]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels_N):
        of_class = random.permutation(np.flatnonzero(labels_N == label))
        num_val = _share(val_fraction, of=len(of_class), most=len(of_class) - 1)
        num_test = _share(test_fraction, of=len(of_class), most=len(of_class) - 1 - num_val)
        parts["val"].append(of_class[:num_val])
        parts["test"].append(of_class[num_val : num_val + num_test])
        parts["train"].append(of_class[num_val + num_test :])
    train, val, test = (random.permutation(np.concatenate(parts[name])) for name in parts)
    return Parts(train=train, val=val, test=test if test_fraction > 0 else None)


def _share(fraction: float, *, of: int, most: int) -> int:
    return min(max(1, round(fraction * of)), most) if fraction > 0 else 0


def require_classes(
    labels_N: IntArray, classes: Sequence[str], *, config: DataConfig, source: object, what: str
) -> None:
    """Refuse data that cannot be split into what is asked for.

    Args:
        labels_N: Class indices.
        classes: Their names.
        config: How many splits are wanted.
        source: What messages call the data.
        what: What its samples are called, such as `rows`.

    Raises:
        DataError: There is one class only, or a class has too few samples to be in each split.
    """
    if len(classes) < 2:
        names = ", ".join(map(repr, classes)) or "none"
        raise DataError(
            f"{source} has {len(classes)} class ({names}); a classifier needs 2 or more, so check "
            "which column or folder names the classes"
        )
    least = 2 if config.test_fraction == 0 else 3
    counts_K = np.bincount(labels_N, minlength=len(classes))
    few = [(classes[index], counts_K[index]) for index in np.flatnonzero(counts_K < least).tolist()]
    if few:
        shown = ", ".join(f"{name!r} ({count})" for name, count in few[:_MAX_EXAMPLES])
        more = f" and {len(few) - _MAX_EXAMPLES} more" if len(few) > _MAX_EXAMPLES else ""
        raise DataError(
            f"{source} has fewer than {least} {what} of {shown}{more}; a class needs {least} or "
            "more, to be in every split, so give more of it or take it out"
        )


def digest_arrays(*arrays: npt.NDArray[Any]) -> str:
    """sha256 of arrays, their types and shapes included."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(f"{array.dtype.str}{array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def digest_texts(texts: Sequence[str], labels_N: IntArray) -> str:
    """sha256 of texts and their class indices."""
    content = hashlib.sha256(labels_N.tobytes())
    for text in texts:
        encoded = text.encode()
        content.update(f"{len(encoded)}\0".encode() + encoded)
    return content.hexdigest()
