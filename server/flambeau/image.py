"""Images to arrays, the same way in training and in serving; Pillow and numpy, no torch.

`decode_image` turns bytes from anybody into an image or says what is wrong with them;
`ImageTransform` turns an image into the numbers a model takes. Both compute what torchvision's
`Resize`, `CenterCrop`, `ToTensor` and `Normalize` compute on a Pillow image, bit for bit. EXIF
orientation is not applied, as in TorchServe's handlers and torchvision's datasets: a model sees the
pixels as they are stored.
"""

from __future__ import annotations

import difflib
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from flambeau.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_PIXELS: Final = 89_478_485  # where Pillow starts to warn: 256 MiB of RGB pixels

_NUM_CHANNELS: Final = {"L": 1, "RGB": 3}
_RESAMPLING: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
_KEYS: Final = ("mode", "resize", "size", "mean", "std", "interpolation")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTransform:
    """From a Pillow image to a model's input: convert, resize, crop, scale to 0..1, normalise.

    Attributes:
        mode: `L` (grey, C = 1) or `RGB` (C = 3).
        resize: Length the shorter edge is scaled to, the other one in proportion; None keeps.
        size: Height and width of the centre that is cut out, after resizing; what is missing is
            filled with black. None keeps all, so that images of one batch may differ in size.
        mean: One per channel, in units of 0..1.
        std: One per channel, in units of 0..1, above 0.
        interpolation: `bilinear`, `nearest` or `bicubic`, with antialiasing as Pillow does it.

    Raises:
        ConfigError: A value is out of range; the message names it and what would do.
    """

    mode: str
    resize: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, _NUM_CHANNELS)
        _check_choice("interpolation", self.interpolation, _RESAMPLING)
        for name, length in (
            ("resize", self.resize),
            *(("size", edge) for edge in self.size or ()),
        ):
            if length is not None and length < 1:
                raise ConfigError(f"image.{name} is {length}; use 1 or more")
        num_channels = _NUM_CHANNELS[self.mode]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != num_channels or not all(map(math.isfinite, values)):
                raise ConfigError(
                    f"image.{name} is {list(values)}; give {num_channels} finite numbers, one per "
                    f"channel of mode {self.mode}"
                )
        if min(self.std) <= 0:
            raise ConfigError(f"image.std is {list(self.std)}; each is divided by, use more than 0")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ImageTransform:
        """Read the `image` part of a model's YAML.

        Args:
            mapping: Attributes by name. Without `mode` it is RGB, without `mean` and `std` pixels
                stay in 0..1, and one number for `size` means a square.

        Raises:
            ConfigError: A key is unknown or a value wrong; the message names the nearest valid one.
        """
        for key in mapping:
            _check_choice("key", key, _KEYS)
        mode = _text(mapping, "mode", default="RGB")
        num_channels = _NUM_CHANNELS.get(mode, 0)
        return cls(
            mode=mode,
            resize=_length(mapping, "resize"),
            size=_size(mapping),
            mean=_numbers(mapping, "mean", default=(0.0,) * num_channels),
            std=_numbers(mapping, "std", default=(1.0,) * num_channels),
            interpolation=_text(mapping, "interpolation", default="bilinear"),
        )

    def to_mapping(self) -> dict[str, Any]:
        """What `from_mapping` reads, in types that YAML and JSON write."""
        return {
            "mode": self.mode,
            "resize": self.resize,
            "size": None if self.size is None else list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }

    def __call__(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Transform one image.

        Args:
            image: Any mode, any size; not changed.

        Returns:
            float32, (C, H, W), in channel order R, G, B.

        Raises:
            InvalidInput: The image is so narrow that resizing would make it larger than
                `MAX_PIXELS`.
        """
        image = _convert(image, self.mode)
        if self.resize is not None:
            image = self._resized(image, self.resize)
        if self.size is not None:
            image = _center_crop(image, *self.size)
        pixels = np.asarray(image).reshape(image.height, image.width, -1)  # (H, W, C)
        array = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
        array /= np.float32(255)
        array -= np.array(self.mean, dtype=np.float32)[:, None, None]
        array /= np.array(self.std, dtype=np.float32)[:, None, None]
        return array

    def _resized(self, image: Image.Image, shorter: int) -> Image.Image:
        width, height = image.size
        longer = int(shorter * max(width, height) / min(width, height))  # torchvision's rounding
        if shorter * longer > MAX_PIXELS:
            raise InvalidInput(
                f"the image is {width} x {height}; scaled to a shorter edge of {shorter} it would "
                f"have {shorter * longer} pixels, over the limit of {MAX_PIXELS}; cut it"
            )
        size = (shorter, longer) if width <= height else (longer, shorter)
        return image.resize(size, _RESAMPLING[self.interpolation])


def allow_images_of_any_size() -> None:
    """Lift Pillow's own limit, for all of this process; it protects from decompression bombs."""
    Image.MAX_IMAGE_PIXELS = None


def decode_image(
    body: bytes | bytearray | memoryview, *, max_pixels: int | None, min_edge: int | None = None
) -> Image.Image:
    """Decode bytes from anybody, whole: a decoded image raises nothing later.

    Args:
        body: One image in any format Pillow reads; of an animation the first frame counts.
        max_pixels: Width times height that is still decoded, None for any. Above twice
            `MAX_PIXELS` Pillow's own limit applies, too.
        min_edge: How short the shorter edge of a JPEG file may become: it is decoded at 1/2, 1/4 or
            1/8 of its size where that leaves as much. None decodes every image at full size.

    Raises:
        InvalidInput: The body is empty, not an image, cut off, or too large once decoded.
    """
    if len(body) == 0:
        raise InvalidInput("the body is empty; send the bytes of an image file")
    try:
        image = Image.open(io.BytesIO(body))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"the image is too large: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever the bytes provoke
        raise InvalidInput(
            f"the body ({len(body)} bytes, starting {bytes(body[:8])!r}) is not an image; send the "
            "bytes of a JPEG, PNG or other image file"
        ) from error
    if image.format == "EPS":
        raise InvalidInput("EPS files are programs, which are not run here; send a JPEG or PNG")
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise InvalidInput(
            f"the image is {image.width} x {image.height} pixels, over the limit of {max_pixels}; "
            "scale it down"
        )
    try:
        if min_edge is not None:
            image.draft(None, (min_edge, min_edge))
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise InvalidInput(
            f"the {image.format} image is damaged or cut off after {len(body)} bytes ({error}); "
            "send the whole file"
        ) from error
    return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns that transparency is lost
    return image if image.mode == mode else image.convert(mode)


def _center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = _margin(image.width, width), _margin(image.height, height)
    return image.crop((left, top, left + width, top + height))  # outside of the image is zero


def _margin(length: int, cropped: int) -> int:
    """Where the cut begins; below 0 when black is added. torchvision's rounding in both cases."""
    if cropped > length:
        return -((cropped - length) // 2)
    return round((length - cropped) / 2)


def _check_choice(what: str, value: object, choices: Mapping[str, object] | Sequence[str]) -> None:
    if value in choices:
        return
    nearest = difflib.get_close_matches(str(value).lower(), [c.lower() for c in choices], n=1)
    meant = [choice for choice in choices if choice.lower() in nearest]
    hint = f"did you mean {meant[0]!r}?" if meant else f"use one of {', '.join(choices)}"
    raise ConfigError(f"image.{what} is {value!r}; {hint}")


def _text(mapping: Mapping[str, Any], key: str, *, default: str) -> str:
    value = mapping.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"image.{key} is {value!r}; give text, e.g. {default}")
    return value


def _length(mapping: Mapping[str, Any], key: str) -> int | None:
    value = mapping.get(key)
    if value is None or type(value) is int:
        return value
    raise ConfigError(f"image.{key} is {value!r}; give a whole number of pixels")


def _size(mapping: Mapping[str, Any]) -> tuple[int, int] | None:
    match mapping.get("size"):
        case None:
            return None
        case bool():
            pass
        case int(edge):
            return edge, edge
        case [int(height), int(width)]:
            return height, width
        case _:
            pass
    raise ConfigError(f"image.size is {mapping['size']!r}; give [height, width] or one number")


def _numbers(
    mapping: Mapping[str, Any], key: str, *, default: tuple[float, ...]
) -> tuple[float, ...]:
    values = mapping.get(key, default)
    if isinstance(values, (list, tuple)) and all(type(v) in {int, float} for v in values):
        return tuple(map(float, values))
    raise ConfigError(f"image.{key} is {values!r}; give a list of numbers, one per channel")


# torchvision's ImageClassification preset and TorchServe's image_classifier
IMAGENET: Final = ImageTransform(
    mode="RGB", resize=256, size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)

# torchvision's ToTensor, as its detectors are called with
AS_IT_IS: Final = ImageTransform(mode="RGB", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
