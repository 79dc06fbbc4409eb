"""The data sets: what is in them, which samples are held out, and how one becomes a tensor.

Images go through `flambeau.image.ImageTransform`, the function that serves them later, so a model
sees the same numbers in training and in production.

Shapes: N = samples, H, W = height and width, F = features of a table.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn import datasets as sklearn_datasets
from torch.utils.data import Dataset

from flambeau.errors import InvalidInput
from flambeau.image import MAX_PIXELS, ImageTransform, decode_image
from training.errors import DataError
from training.idx import download_mnist, find_idx, read_idx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.config import DataConfig, ImageConfig

UInt8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


class Split(Dataset[tuple[torch.Tensor, int]], ABC):
    """The samples to train on, or the held-out ones; each is an input and its class index."""

    labels_N: IntArray

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]: ...

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Everything a run and an export need to know about the data.

    Attributes:
        classes: Names, by class index.
        input_shape: Of one sample: (C, H, W) of an image, (F,) of a table's row; float32.
        image: How an image becomes an input; None when the data is a table.
        feature_names: A table's columns; None when the data is images.
        digest: sha256 of the content, splits apart: equal digests mean equal data.
    """

    train: Split
    val: Split
    classes: list[str]
    input_shape: tuple[int, ...]
    image: ImageTransform | None = None
    feature_names: list[str] | None = None
    digest: str


def load_data(config: DataConfig, *, image: ImageConfig) -> DataSet:
    """Read a data set and split it.

    Raises:
        DataError: Files are missing or damaged; the message names the path and the next step.
    """
    if config.name == "tabular":
        return _tabular(config)
    transform = ImageTransform(
        mode=image.mode,
        resize=image.resize,
        size=(image.size, image.size),
        mean=image.mean,
        std=image.std,
    )
    if config.name == "digits":
        return _digits(config, transform=transform)
    assert config.root is not None  # DataConfig checks it
    if config.name == "mnist":
        if config.download:
            download_mnist(config.root)
        return _mnist(config.root, transform=transform)
    return _image_folder(config, root=config.root, transform=transform)


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


def write_png_samples(split: Split, directory: Path, count: int) -> list[tuple[Path, int]]:
    """Write the first images of a split as files, untransformed: what a client would send.

    Args:
        split: Of an image data set.
        directory: Made if missing.
        count: How many; fewer when the split is smaller.

    Returns:
        The path and the class index of each.
    """
    assert isinstance(split, ImageSplit)
    directory.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Path, int]] = []
    for index in range(min(count, len(split))):
        label = int(split.labels_N[index])
        path = directory / f"{index:04d}_class_{label}.png"
        split.image(index).save(path)
        written.append((path, label))
    return written


class Images(Protocol):
    """Where images come from: decoded one at a time, by whichever process asks."""

    def __getitem__(self, index: int) -> Image.Image: ...


class ImageSplit(Split):
    """Images at some positions of a source, transformed as they will be when served."""

    def __init__(
        self,
        images: Images,
        *,
        labels_N: IntArray,
        indices: IntArray,
        transform: ImageTransform,
    ) -> None:
        self.labels_N = labels_N[indices]
        self._images = images
        self._indices = indices
        self._transform = transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self._transform(self.image(index))), int(self.labels_N[index])

    def image(self, index: int) -> Image.Image:
        return self._images[int(self._indices[index])]


class TableSplit(Split):
    """Rows of a table, unscaled: the model standardises, so that clients need not.

    Attributes:
        features_NF: float32.
    """

    def __init__(self, features_NF: torch.Tensor, *, labels_N: IntArray) -> None:
        self.features_NF = features_NF
        self.labels_N = labels_N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.features_NF[index], int(self.labels_N[index])


class ArrayImages:
    """Grey images in memory."""

    def __init__(self, images_NHW: UInt8Array) -> None:
        self._images_NHW = images_NHW

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self._images_NHW[index])


class FileImages:
    """Images in files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __getitem__(self, index: int) -> Image.Image:
        path = self._paths[index]
        try:
            return decode_image(path.read_bytes(), max_pixels=MAX_PIXELS)
        except (InvalidInput, OSError) as error:
            raise DataError(f"cannot read the image {path}: {error}") from error


def _digits(config: DataConfig, *, transform: ImageTransform) -> DataSet:
    """The test part of the UCI optical digits: 8x8 scans, each value a count of 0..16 pixels."""
    bundle: Any = sklearn_datasets.load_digits()
    images_NHW = np.round(bundle.images * (255 / 16)).astype(np.uint8)
    labels_N = bundle.target.astype(np.int64)
    train, val = _split(labels_N, config=config)
    images = ArrayImages(images_NHW)
    return DataSet(
        train=ImageSplit(images, labels_N=labels_N, indices=train, transform=transform),
        val=ImageSplit(images, labels_N=labels_N, indices=val, transform=transform),
        classes=[str(digit) for digit in range(10)],
        input_shape=_input_shape(transform),
        image=transform,
        digest=_digest(images_NHW, labels_N),
    )


def _mnist(root: Path, *, transform: ImageTransform) -> DataSet:
    """MNIST, or a set in its format; the files called `t10k` are the held-out samples."""
    splits: list[Split] = []
    arrays: list[UInt8Array] = []
    for prefix in ("train", "t10k"):
        paths = [find_idx(root, name=f"{prefix}-{kind}") for kind in ("images-idx3", "labels-idx1")]
        images_NHW, labels = read_idx(paths[0], num_dims=3), read_idx(paths[1], num_dims=1)
        if len(images_NHW) != len(labels):
            raise DataError(
                f"{paths[0]} has {len(images_NHW)} images and {paths[1]} {len(labels)} labels; "
                "they do not belong together"
            )
        arrays += images_NHW, labels
        splits.append(
            ImageSplit(
                ArrayImages(images_NHW),
                labels_N=labels.astype(np.int64),
                indices=np.arange(len(labels)),
                transform=transform,
            )
        )
    num_classes = 1 + max(int(split.labels_N.max()) for split in splits)
    return DataSet(
        train=splits[0],
        val=splits[1],
        classes=[str(index) for index in range(num_classes)],
        input_shape=_input_shape(transform),
        image=transform,
        digest=_digest(*arrays),
    )


def _image_folder(config: DataConfig, *, root: Path, transform: ImageTransform) -> DataSet:
    """`root/CLASS/*`: every file with a suffix that Pillow knows; the folder names its class."""
    if not root.is_dir():
        raise DataError(f"data.root, {root}, is not a directory; give one folder per class in it")
    suffixes = Image.registered_extensions()
    paths: list[Path] = []
    labels: list[int] = []
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    for label, folder in enumerate(folders):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
        if len(files) < 2:
            raise DataError(
                f"{folder} has {len(files)} images; a class needs 2 or more, to train and to check"
            )
        paths += files
        labels += [label] * len(files)
    if len(folders) < 2:
        raise DataError(f"{root} has {len(folders)} folders; give one per class, 2 or more")
    content = hashlib.sha256()
    for path in paths:
        content.update(str(path.relative_to(root)).encode() + b"\0")
        content.update(hashlib.sha256(path.read_bytes()).digest())
    labels_N = np.array(labels, dtype=np.int64)
    train, val = _split(labels_N, config=config)
    images = FileImages(paths)
    return DataSet(
        train=ImageSplit(images, labels_N=labels_N, indices=train, transform=transform),
        val=ImageSplit(images, labels_N=labels_N, indices=val, transform=transform),
        classes=[folder.name for folder in folders],
        input_shape=_input_shape(transform),
        image=transform,
        digest=content.hexdigest(),
    )


def _tabular(config: DataConfig) -> DataSet:
    bundle: Any = getattr(sklearn_datasets, f"load_{config.table}")()
    features: npt.NDArray[np.float32] = bundle.data.astype(np.float32)
    labels_N = bundle.target.astype(np.int64)
    features_NF = torch.from_numpy(features)
    train, val = _split(labels_N, config=config)
    return DataSet(
        train=TableSplit(features_NF[train], labels_N=labels_N[train]),
        val=TableSplit(features_NF[val], labels_N=labels_N[val]),
        classes=[str(name) for name in bundle.target_names],
        input_shape=(features.shape[1],),
        feature_names=[str(name) for name in bundle.feature_names],
        digest=_digest(features, labels_N),
    )


def _input_shape(transform: ImageTransform) -> tuple[int, int, int]:
    assert transform.size is not None
    return (1 if transform.mode == "L" else 3, *transform.size)


def _split(labels_N: IntArray, *, config: DataConfig) -> tuple[IntArray, IntArray]:
    """Positions to train on and positions held out: the same part of every class, mixed."""
    random = np.random.RandomState(config.split_seed)  # its stream never changes; Generator's may
    train: list[IntArray] = []
    val: list[IntArray] = []
    for label in np.unique(labels_N):
        of_class = random.permutation(np.flatnonzero(labels_N == label))
        num_val = min(max(1, round(config.val_fraction * len(of_class))), len(of_class) - 1)
        val.append(of_class[:num_val])
        train.append(of_class[num_val:])
    return random.permutation(np.concatenate(train)), random.permutation(np.concatenate(val))


def _digest(*arrays: npt.NDArray[Any]) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(f"{array.dtype.str}{array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
