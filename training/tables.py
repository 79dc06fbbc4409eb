"""Tables: scikit-learn's, and those in files, whose columns are numbers or one of a few values.

Rows stay in the units they come in, so that clients need not know any other: the model standardises
numbers. A value that is no number becomes the number of its category, from 1 on; the model makes
that into one input per category.

Shapes: N = rows, F = columns without the label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from training.columns import Columns, read_columns
from training.errors import DataError
from training.splits import DataSet, IntArray, Split, digest_arrays, require_classes, split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from training.config import DataConfig

_MAX_CATEGORIES = 256


class TableSplit(Split):
    """Rows of a table, unscaled.

    Attributes:
        features_NF: float32.
    """

    def __init__(self, features_NF: torch.Tensor, *, labels_N: IntArray) -> None:
        self.features_NF = features_NF
        self.labels_N = labels_N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.features_NF[index], int(self.labels_N[index])


def load_tabular(config: DataConfig) -> DataSet:
    """The table in `data.root`, or else the one of scikit-learn's that `data.table` names.

    Raises:
        ConfigError: The file has no such column.
        DataError: The file cannot be read, a value is missing or odd, or classes are too small.
    """
    if config.root is not None:
        return _from_file(config, path=config.root)
    from sklearn import datasets  # noqa: PLC0415  # takes seconds, and is not for exports

    bundle: Any = getattr(datasets, f"load_{config.table}")()
    features: npt.NDArray[np.float32] = bundle.data.astype(np.float32)
    return _data_set(
        features,
        labels_N=bundle.target.astype(np.int64),
        classes=[str(name) for name in bundle.target_names],
        feature_names=[str(name) for name in bundle.feature_names],
        config=config,
    )


def label_column(columns: Columns, config: DataConfig) -> int:
    """The place of the column with the classes: the one that is set, or else the last.

    Raises:
        ConfigError: There is none of that name.
    """
    if config.label_column is None:
        return len(columns.names) - 1
    return columns.index(config.label_column, setting="data.label_column")


def class_indices(columns: Columns, column: int) -> tuple[IntArray, list[str]]:
    """The class of each row, and the classes in order: by number if they are numbers.

    Raises:
        DataError: A row has none.
    """
    values = _values(columns, column)
    classes = sorted(set(values))
    if all(_number(name) is not None for name in classes):
        classes.sort(key=float)
    places = {name: place for place, name in enumerate(classes)}
    return np.array([places[value] for value in values], dtype=np.int64), classes


def _from_file(config: DataConfig, *, path: Path) -> DataSet:
    columns = read_columns(path)
    label = label_column(columns, config)
    labels_N, classes = class_indices(columns, label)
    require_classes(labels_N, classes, config=config, source=path, what="rows")
    named = {columns.index(name, setting="data.categories") for name in config.categories or ()}
    kept = [place for place in range(len(columns.names)) if place != label]
    if not kept:
        raise DataError(
            f"{path} has no column beside {columns.names[label]!r}, the label; add some"
        )
    train = split(labels_N, config).train
    features: list[npt.NDArray[np.float32]] = []
    categories: dict[str, list[str]] = {}
    for place in kept:
        numbers = None if place in named else _numbers(columns, place)
        if numbers is None:
            name = columns.names[place]
            numbers, categories[name] = _category_numbers(columns, place, train=train)
        features.append(numbers)
    return _data_set(
        np.stack(features, axis=1),
        labels_N=labels_N,
        classes=classes,
        feature_names=[columns.names[place] for place in kept],
        categories=categories,
        config=config,
    )


def _data_set(
    features: npt.NDArray[np.float32],
    *,
    labels_N: IntArray,
    classes: list[str],
    feature_names: list[str],
    categories: dict[str, list[str]] | None = None,
    config: DataConfig,
) -> DataSet:
    features_NF = torch.from_numpy(features)

    def rows(indices: IntArray) -> TableSplit:
        return TableSplit(features_NF[indices], labels_N=labels_N[indices])

    return DataSet(
        **split(labels_N, config).splits(rows),
        classes=classes,
        input_shape=(features.shape[1],),
        feature_names=feature_names,
        categories=categories or None,
        digest=digest_arrays(features, labels_N),
    )


def _numbers(columns: Columns, place: int) -> npt.NDArray[np.float32] | None:
    """A column as numbers; None if no row has one.

    Raises:
        DataError: A value is missing, too large, or no number where others are.
    """
    values = _values(columns, place)
    numbers = [_number(value) for value in values]
    if all(number is None for number in numbers):
        return None
    if None in numbers:
        row = numbers.index(None)
        raise DataError(
            f"{columns.where(row, place)} is {values[row]!r}, where other rows have numbers; "
            "correct it, or name the column in data.categories"
        )
    with np.errstate(over="ignore"):
        found = np.array(numbers, dtype=np.float64).astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(found))
    if len(odd):
        row = int(odd[0])
        raise DataError(
            f"{columns.where(row, place)} is {values[row]}; use a number that float32 holds"
        )
    return found


def _values(columns: Columns, place: int) -> list[str]:
    values = [row[place].strip() for row in columns.rows]
    if "" in values:
        where = columns.where(values.index(""), place)
        raise DataError(f"{where} is empty; fill it in, or take out the row or the column")
    return values


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _category_numbers(
    columns: Columns, place: int, *, train: IntArray
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """A column as numbers of categories, which are the values that training rows have.

    Raises:
        DataError: A value is missing, or there are too many different ones.
    """
    values = _values(columns, place)
    categories = sorted({values[row] for row in train.tolist()})
    if len(categories) > _MAX_CATEGORIES:
        raise DataError(
            f"{columns.path}, column {columns.names[place]!r} has {len(categories)} different "
            f"values; at most {_MAX_CATEGORIES} can be categories, so take the column out"
        )
    numbers = {value: number for number, value in enumerate(categories, start=1)}
    return np.array([numbers.get(value, 0) for value in values], dtype=np.float32), categories


def known_categories(data: DataSet) -> Sequence[int]:
    """How many categories each column has, 0 where it has numbers; empty if all have."""
    if data.categories is None or data.feature_names is None:
        return ()
    return [len(data.categories.get(name, ())) for name in data.feature_names]
