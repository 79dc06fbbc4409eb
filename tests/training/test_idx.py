from __future__ import annotations

import gzip
import struct
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from training.errors import DataError
from training.idx import download_mnist, find_idx, read_idx

if TYPE_CHECKING:
    from pathlib import Path

LABELS = bytes([0, 0, 8, 1]) + struct.pack(">I", 3) + bytes([7, 2, 1])
IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 3) + bytes(range(12))


def test_images_and_labels_are_read_with_their_shapes(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(IMAGES)
    (tmp_path / "labels.gz").write_bytes(gzip.compress(LABELS))
    images = read_idx(tmp_path / "images", num_dims=3)
    labels = read_idx(tmp_path / "labels.gz", num_dims=1)
    assert np.array_equal(images, np.arange(12).reshape(2, 2, 3))
    assert labels.tolist() == [7, 2, 1]


@pytest.mark.parametrize(
    "name",
    [
        "train-labels-idx1-ubyte",
        "train-labels.idx1-ubyte",
        "train-labels-idx1-ubyte.gz",
        "MNIST/raw/train-labels-idx1-ubyte",
    ],
)
def test_a_file_is_found_under_its_usual_spellings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(LABELS)
    assert find_idx(tmp_path, name="train-labels-idx1") == tmp_path / name


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_idx(tmp_path, name="train-labels-idx1")
    assert f"{tmp_path / 'train-labels-idx1-ubyte'} is not there" in str(caught.value)
    assert "point data.root at them" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LABELS[:-1], r"has 10 bytes; its header, sizes \[3\], promises 11"),
        (LABELS + b"\0", "has 12 bytes"),
        (LABELS[:6], "ends inside its header"),
        (b"", "it is not an IDX file"),
        (IMAGES, "starts with 00 00 08 03, not 00 00 08 01"),
        (LABELS[:4] + bytes(4), "promises 8"),
    ],
    ids=["cut", "too long", "header cut", "empty", "other kind", "no items"],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, num_dims=1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(LABELS)[:-9]], ids=["no", "cut"])
def test_damaged_compression_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*labels\.gz.*fetch it again"):
        read_idx(path, num_dims=1)


def test_fetching_mnist_without_torchvision_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)  # as if not installed
    with pytest.raises(DataError, match=r"data\.download needs torchvision .*four files into"):
        download_mnist(tmp_path)
