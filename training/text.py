"""Texts: files in a folder per class, a file with a column of texts, or lines of code at hand.

They go through `flambeau.tokenizer.Tokenizer`, built from the training texts, which serves them
later, too.

Shapes: B = batch, T = tokens of the longest text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from training.code_lines import code_lines
from training.columns import MAX_CHARACTERS, read_columns, read_text
from training.errors import DataError
from training.folders import find_files
from training.splits import DataSet, IntArray, Parts, Split, digest_texts, require_classes, split
from training.tables import class_indices, label_column
from training.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from training.config import DataConfig, TextConfig


class TextSplit(Split):
    """Texts as the numbers of their tokens, int64, each as long as it is."""

    def __init__(self, ids: Sequence[torch.Tensor], *, labels_N: IntArray) -> None:
        self._ids = ids
        self.labels_N = labels_N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._ids[index], int(self.labels_N[index])


def padded(samples: Sequence[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch, int64, (B, T), shorter texts filled up with 0, and class indices, int64, (B,)."""
    tokens_BT = pad_sequence([tokens for tokens, _ in samples], batch_first=True)
    return tokens_BT, torch.tensor([label for _, label in samples])


def load_code_lines(config: DataConfig, text: TextConfig) -> DataSet:
    """4,800 lines in four languages, from installed packages."""
    texts, labels_N, classes = code_lines()
    return _data_set(texts, labels_N, classes, split(labels_N, config), text=text)


def load_text(config: DataConfig, text: TextConfig, *, root: Path) -> DataSet:
    """Texts in files `root/CLASS/*.txt`, or in a column of the file `root`.

    Raises:
        ConfigError: The file has no such column.
        DataError: A text is missing, empty, or not UTF-8, or classes are too small.
    """
    if root.suffix and not root.is_dir():
        texts, labels_N, classes = _from_columns(config, path=root)
        return _data_set(texts, labels_N, classes, split(labels_N, config), text=text)
    files = find_files(root, config, suffixes={".txt"}, what="texts (.txt)")
    texts = [_checked(read_text(path), where=str(path)) for path in files.paths]
    return _data_set(texts, files.labels_N, files.classes, files.parts, text=text)


def _from_columns(config: DataConfig, *, path: Path) -> tuple[list[str], IntArray, list[str]]:
    columns = read_columns(path)
    place = columns.index(config.text_column, setting="data.text_column")
    label = label_column(columns, config)
    if label == place:
        raise DataError(
            f"{path}: column {columns.names[place]!r} would be both the text and the class; name "
            "the other one in data.label_column"
        )
    texts = [
        _checked(row[place], where=columns.where(number, place))
        for number, row in enumerate(columns.rows)
    ]
    labels_N, classes = class_indices(columns, label)
    require_classes(labels_N, classes, config=config, source=path, what="rows")
    return texts, labels_N, classes


def _checked(text: str, *, where: str) -> str:
    if not text.strip():
        raise DataError(f"{where} is empty; give it a text, or take it out")
    if len(text) > MAX_CHARACTERS:
        raise DataError(
            f"{where} has {len(text):,} characters; a text has at most {MAX_CHARACTERS:,}, so cut "
            "it"
        )
    return text


def _data_set(
    texts: Sequence[str],
    labels_N: IntArray,
    classes: list[str],
    parts: Parts,
    *,
    text: TextConfig,
) -> DataSet:
    places: list[int] = parts.train.tolist()
    tokenizer = build_tokenizer((texts[place] for place in places), text)
    ids = [torch.tensor(tokenizer.encode(each)) for each in texts]

    def texts_at(indices: IntArray) -> TextSplit:
        return TextSplit([ids[place] for place in indices.tolist()], labels_N=labels_N[indices])

    return DataSet(
        **parts.splits(texts_at),
        classes=classes,
        input_shape=(text.max_tokens,),
        input_dtype=torch.int64,
        collate=padded,
        tokenizer=tokenizer,
        digest=digest_texts(texts, np.asarray(labels_N)),
    )
