"""JPEG files as cameras and websites make them: about 100 KB each, of several sizes.

Smooth light, shapes with sharp edges, and fine grain; the amount of grain is chosen so that each
file has the wanted number of bytes. Everything is made by seed.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

NUM_BYTES: Final = 100_000
QUALITY: Final = 85
SIZES: Final = ((640, 480), (1024, 768), (768, 1024), (800, 600))  # width, height

_TOLERANCE: Final = 0.03
_MOST_GRAIN: Final = 64.0  # a standard deviation, in steps of 256


def write_photos(
    directory: Path, num: int, *, num_bytes: int = NUM_BYTES, seed: int = 0
) -> list[Path]:
    """Write photos to `photo-000.jpg` and so on; as `photos`.

    Args:
        directory: Made if it is not there.
        num: How many.
        num_bytes: Of each, within 3 %.
        seed: Of what is on them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"photo-{place:03}.jpg" for place in range(num)]
    for path, body in zip(paths, photos(num, num_bytes=num_bytes, seed=seed), strict=True):
        path.write_bytes(body)
    return paths


def photos(num: int, *, num_bytes: int = NUM_BYTES, seed: int = 0) -> list[bytes]:
    """JPEG files whose sizes in pixels are `SIZES` in turn.

    Args:
        num: How many.
        num_bytes: Of each, within 3 %.
        seed: Of what is on them.
    """
    return [
        _photo(*SIZES[place % len(SIZES)], num_bytes=num_bytes, seed=(seed, place))
        for place in range(num)
    ]


def _photo(width: int, height: int, *, num_bytes: int, seed: tuple[int, int]) -> bytes:
    """One photo, by halving the interval that holds the right amount of grain."""
    rng = np.random.default_rng(seed)
    scene = _scene(rng, width, height)
    grain = rng.normal(size=(height, width, 1)).astype(np.float32)
    least, most = 0.0, _MOST_GRAIN
    while True:
        amount = (least + most) / 2
        body = _jpeg(scene + amount * grain)
        if abs(len(body) / num_bytes - 1) < _TOLERANCE:
            return body
        if most - least < 1e-3:
            raise ValueError(
                f"{width} x {height} pixels do not make {num_bytes} bytes; ask for another size"
            )
        least, most = (least, amount) if len(body) > num_bytes else (amount, most)


def _scene(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Light that changes slowly, with shapes in front of it; (H, W, 3), 0 to 255."""
    light = np.zeros((height, width, 3), dtype=np.float32)
    for num_cells, strength in ((3, 70), (8, 30), (24, 12), (80, 5)):
        coarse = rng.normal(128, strength, (num_cells, num_cells, 3)).clip(0, 255)
        cells = Image.fromarray(coarse.astype(np.uint8))
        light += np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        light -= 128
    image = Image.fromarray((light + 128).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        color = tuple(rng.integers(0, 256, 3).tolist())
        left, top = rng.uniform(-0.1, 1, 2) * (width, height)
        box = (left, top, left + rng.uniform(5, width / 4), top + rng.uniform(5, height / 4))
        if rng.random() < 0.5:
            draw.ellipse(box, fill=color)
        else:
            draw.line(box, fill=color, width=int(rng.integers(1, 8)))
    return np.asarray(image, np.float32)


def _jpeg(pixels: npt.NDArray[np.floating]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
