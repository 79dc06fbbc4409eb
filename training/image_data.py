"""Images: the scanned digits, MNIST's files, and folders of image files.

They go through `flambeau.image.ImageTransform`, the function that serves them later, so a model
sees the same numbers in training and in production.

Shapes: N = samples, H, W = height and width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from flambeau.errors import InvalidInput
from flambeau.image import MAX_PIXELS, ImageTransform, decode_image
from training.errors import DataError
from training.folders import find_files
from training.idx import download_mnist, find_idx, read_idx
from training.splits import DataSet, IntArray, Split, digest_arrays, split, split_rest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.config import DataConfig

UInt8Array = npt.NDArray[np.uint8]


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


class ArrayImages:
    """Grey images in memory, in one or several arrays (N, H, W) that count as one."""

    def __init__(self, *images: UInt8Array) -> None:
        self._images = images

    def __getitem__(self, index: int) -> Image.Image:
        for images_NHW in self._images:
            if index < len(images_NHW):
                return Image.fromarray(images_NHW[index])
            index -= len(images_NHW)
        raise IndexError(index)


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


def load_digits(config: DataConfig, *, transform: ImageTransform) -> DataSet:
    """The test part of the UCI optical digits: 8x8 scans, each value a count of 0..16 pixels."""
    from sklearn import datasets  # noqa: PLC0415  # takes seconds, and is not for exports

    bundle: Any = datasets.load_digits()
    images_NHW = np.round(bundle.images * (255 / 16)).astype(np.uint8)
    labels_N = bundle.target.astype(np.int64)

    def images_at(indices: IntArray) -> ImageSplit:
        return ImageSplit(
            ArrayImages(images_NHW), labels_N=labels_N, indices=indices, transform=transform
        )

    return DataSet(
        **split(labels_N, config).splits(images_at),
        classes=[str(digit) for digit in range(10)],
        input_shape=_input_shape(transform),
        image=transform,
        digest=digest_arrays(images_NHW, labels_N),
    )


def load_mnist(config: DataConfig, *, root: Path, transform: ImageTransform) -> DataSet:
    """MNIST, or a set in its format.

    The files called `t10k` are the test split, where one is asked for, and then validation is a
    part of the others; else they are for validation.

    Raises:
        DataError: A file is missing or damaged, or images and labels do not belong together.
    """
    if config.download:
        download_mnist(root)
    images: list[UInt8Array] = []
    labels: list[UInt8Array] = []
    for prefix in ("train", "t10k"):
        paths = [find_idx(root, name=f"{prefix}-{kind}") for kind in ("images-idx3", "labels-idx1")]
        images.append(read_idx(paths[0], num_dims=3))
        labels.append(read_idx(paths[1], num_dims=1))
        if len(images[-1]) != len(labels[-1]):
            raise DataError(
                f"{paths[0]} has {len(images[-1])} images and {paths[1]} {len(labels[-1])} labels; "
                "they do not belong together"
            )
    held_out = "test" if config.test_fraction > 0 else "val"
    labels_N = np.concatenate(labels).astype(np.int64)
    positions = np.arange(len(labels_N))
    given = {"train": positions[: len(labels[0])], held_out: positions[len(labels[0]) :]}
    source = ArrayImages(*images)

    def images_at(indices: IntArray) -> ImageSplit:
        return ImageSplit(source, labels_N=labels_N, indices=indices, transform=transform)

    return DataSet(
        **split_rest(labels_N, config, given=given).splits(images_at),
        classes=[str(index) for index in range(1 + int(labels_N.max()))],
        input_shape=_input_shape(transform),
        image=transform,
        digest=digest_arrays(images[0], labels[0], images[1], labels[1]),
    )


def load_image_folder(config: DataConfig, *, root: Path, transform: ImageTransform) -> DataSet:
    """Every file with a suffix that Pillow knows; the folder names its class."""
    files = find_files(root, config, suffixes=Image.registered_extensions(), what="images")

    def images_at(indices: IntArray) -> ImageSplit:
        return ImageSplit(
            FileImages(files.paths), labels_N=files.labels_N, indices=indices, transform=transform
        )

    return DataSet(
        **files.parts.splits(images_at),
        classes=files.classes,
        input_shape=_input_shape(transform),
        image=transform,
        digest=files.digest,
    )


def _input_shape(transform: ImageTransform) -> tuple[int, int, int]:
    assert transform.size is not None
    return (1 if transform.mode == "L" else 3, *transform.size)
