"""The IDX format of MNIST's files: a magic number, sizes, bytes; all big-endian."""

from __future__ import annotations

import gzip
import importlib
import math
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

_UNSIGNED_BYTE = 0x08  # the third byte of the magic number; the fourth is the number of dimensions


def find_idx(root: Path, *, name: str) -> Path:
    """The file of this name under any of its usual spellings.

    Args:
        root: Where the files are, or the folder above the `MNIST/raw` that torchvision makes.
        name: For example `train-images-idx3`.

    Raises:
        DataError: There is none.
    """
    spellings = (f"{name}-ubyte", name.replace("-idx", ".idx") + "-ubyte")
    for folder in (root, root / "MNIST" / "raw"):
        for spelling in spellings:
            for path in (folder / spelling, folder / f"{spelling}.gz"):
                if path.is_file():
                    return path
    raise DataError(
        f"{root / spellings[0]} is not there, nor with .gz; put MNIST's four files into {root}, "
        "point data.root at them, or let torchvision fetch them with data.download=true"
    )


def download_mnist(root: Path) -> None:
    """Let torchvision fetch MNIST into `root/MNIST/raw`; does nothing when it is there.

    Raises:
        DataError: torchvision is not installed, or cannot fetch the files.
    """
    try:
        datasets = importlib.import_module("torchvision.datasets")  # optional
    except ImportError as error:
        raise DataError(
            f"data.download needs torchvision ({error}); install it, or put MNIST's four files "
            f"into {root}"
        ) from error
    try:
        datasets.MNIST(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"torchvision cannot fetch MNIST into {root} ({error}); put its four files there"
        ) from error


def read_idx(path: Path, *, num_dims: int) -> npt.NDArray[np.uint8]:
    """Read a file of unsigned bytes, compressed if its name ends in `.gz`.

    Args:
        path: The file.
        num_dims: 3 for images (N, H, W), 1 for labels (N,).

    Raises:
        DataError: The file is cut off, damaged, or of another kind.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(f"cannot read {path}: {error}; fetch it again") from error
    header_bytes = 4 + 4 * num_dims
    magic = bytes([0, 0, _UNSIGNED_BYTE, num_dims])
    if content[:4] != magic:
        raise DataError(
            f"{path} starts with {content[:4].hex(' ')}, not {magic.hex(' ')}: it is not an IDX "
            f"file of bytes in {num_dims} dimensions"
        )
    if len(content) < header_bytes:
        raise DataError(f"{path} ends inside its header; fetch it again")
    shape = struct.unpack(f">{num_dims}I", content[4:header_bytes])
    num_bytes = header_bytes + math.prod(shape)
    if len(content) != num_bytes or 0 in shape:
        raise DataError(
            f"{path} has {len(content)} bytes; its header, sizes {list(shape)}, promises "
            f"{num_bytes}; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)
