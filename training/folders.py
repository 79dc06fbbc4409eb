"""Folders of files, one folder per class; or `train`, `val` and `test` with such folders in them.

root/cat/1.jpg          the splits are drawn by `data.split_seed`
root/train/cat/1.jpg    the splits are as they are; one that is missing is drawn from `train`
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.errors import DataError
from training.splits import IntArray, Parts, split, split_rest

if TYPE_CHECKING:
    from pathlib import Path

    from training.config import DataConfig

_READY_MADE = frozenset({"train", "val", "test"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Files, their classes and their splits.

    Attributes:
        paths: All of them, N.
        labels_N: Class indices.
        classes: The folders' names.
        parts: Which file is in which split.
        digest: sha256 of the files' names and contents.
    """

    paths: list[Path]
    labels_N: IntArray
    classes: list[str]
    parts: Parts
    digest: str


def find_files(root: Path, config: DataConfig, *, suffixes: Collection[str], what: str) -> Files:
    """Every file with such a suffix, wherever it is in its class's folder.

    Args:
        root: The directory.
        config: How to split.
        suffixes: In lower case, with the dot.
        what: What messages call the files, such as `images`.

    Raises:
        DataError: There are no such folders or files, or too few; the message names where.
    """
    if not root.is_dir():
        raise DataError(f"data.root, {root}, is not a directory; give one folder per class in it")
    names = {folder.name for folder in _folders(root)}
    is_ready_made = "train" in names and len(names) > 1 and names <= _READY_MADE
    tops = {name: root / name for name in sorted(names)} if is_ready_made else {"train": root}
    classes = [folder.name for folder in _folders(tops["train"])]
    least = 1 if is_ready_made else 2 if config.test_fraction == 0 else 3
    paths: list[Path] = []
    labels: list[int] = []
    given: dict[str, IntArray] = {}
    for name, top in tops.items():
        begin = len(paths)
        for label, files in _labelled(top, classes, suffixes, what=what, least=least).items():
            paths += files
            labels += [label] * len(files)
        given[name] = np.arange(begin, len(paths))
        if begin == len(paths) or len(classes) < 2:
            raise DataError(
                f"{top} has {len(_folders(top))} folders; give one per class, 2 or more"
            )
    labels_N = np.array(labels, dtype=np.int64)
    return Files(
        paths=paths,
        labels_N=labels_N,
        classes=classes,
        parts=split_rest(labels_N, config, given=given)
        if is_ready_made
        else split(labels_N, config),
        digest=_digest(paths, root),
    )


def _folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir() and path.name[0] != ".")


def _labelled(
    directory: Path, classes: Sequence[str], suffixes: Collection[str], *, what: str, least: int
) -> Mapping[int, list[Path]]:
    """The files of each class by its index; only those to train on must be of every class."""
    found: dict[int, list[Path]] = {}
    for folder in _folders(directory):
        if folder.name not in classes:
            raise DataError(
                f"{folder} is of a class that is not in train ({', '.join(classes)}); add it "
                "there, or take it out here"
            )
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
        if len(files) < least:
            raise DataError(
                f"{folder} has {len(files)} {what}; a class needs {least} or more, to train and to "
                "check"
            )
        found[classes.index(folder.name)] = files
    return found


def _digest(paths: Sequence[Path], root: Path) -> str:
    content = hashlib.sha256()
    for path in paths:
        content.update(str(path.relative_to(root)).encode() + b"\0")
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()
