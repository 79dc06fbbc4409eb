from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import flambeau
from flambeau.errors import ConfigError, InvalidInput
from flambeau.image import IMAGENET, MAX_PIXELS, ImageTransform, decode_image

SERVER_DIR = Path(flambeau.__file__).parents[1]


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, *, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def test_pixels_are_scaled_then_normalised_per_channel() -> None:
    image = Image.new("RGB", (2, 1), (255, 0, 51))
    transform = ImageTransform(mode="RGB", mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0))
    array = transform(image)
    assert array.dtype == np.float32
    assert array.shape == (3, 1, 2)
    np.testing.assert_array_equal(array[:, 0, 0], np.array([1.0, -0.5, 0.1], dtype=np.float32))


@pytest.mark.parametrize(
    ("width", "height", "resize", "expected"),
    [
        (500, 375, 256, (256, 341)),  # int(256 * 500 / 375) = 341, not 341.33 rounded up
        (375, 500, 256, (341, 256)),
        (300, 299, 256, (256, 256)),  # 256.86 is cut, not rounded
        (10, 10, 28, (28, 28)),
    ],
)
def test_the_longer_edge_is_cut_to_whole_pixels_like_torchvision(
    width: int, height: int, resize: int, expected: tuple[int, int]
) -> None:
    transform = ImageTransform(mode="L", resize=resize, mean=(0.0,), std=(1.0,))
    assert transform(noise(width, height)).shape == (1, *expected)


@pytest.mark.parametrize(
    ("length", "cropped", "first"),
    [
        (5, 2, 2),  # 1.5 rounds to even
        (7, 2, 2),  # 2.5 rounds to even
        (6, 2, 2),
        (4, 4, 0),
    ],
)
def test_the_center_crop_rounds_like_torchvision(length: int, cropped: int, first: int) -> None:
    ramp = Image.fromarray(np.arange(length, dtype=np.uint8)[None, :])
    transform = ImageTransform(mode="L", size=(1, cropped), mean=(0.0,), std=(1 / 255,))
    np.testing.assert_allclose(transform(ramp)[0, 0], np.arange(first, first + cropped), rtol=1e-6)


def test_an_image_smaller_than_the_crop_is_padded_with_black_more_at_the_end() -> None:
    white = Image.new("L", (1, 2), 255)
    transform = ImageTransform(mode="L", size=(2, 4), mean=(0.0,), std=(1.0,))
    np.testing.assert_array_equal(transform(white)[0], [[0, 1, 0, 0], [0, 1, 0, 0]])


def test_imagenet_is_the_published_recipe() -> None:
    array = IMAGENET(Image.new("RGB", (640, 480), (255, 0, 0)))
    assert array.shape == (3, 224, 224)
    np.testing.assert_allclose(
        array[:, 100, 100], [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("wanted", ["L", "RGB"])
def test_images_of_every_mode_are_taken(mode: str, wanted: str) -> None:
    num_channels = {"L": 1, "RGB": 3}[wanted]
    transform = ImageTransform(mode=wanted, mean=(0.0,) * num_channels, std=(1.0,) * num_channels)
    assert transform(Image.new(mode, (4, 3))).shape == (num_channels, 3, 4)


def test_a_palette_with_transparency_is_taken_without_a_warning() -> None:
    image = noise(8, 8).quantize(16)
    image.info["transparency"] = bytes(range(16))
    assert IMAGENET(image).shape == (3, 224, 224)


def test_the_image_given_is_not_changed() -> None:
    image = noise(8, 8)
    before = image.tobytes()
    IMAGENET(image)
    assert image.tobytes() == before


def test_a_thread_of_an_image_is_refused_instead_of_filling_the_memory() -> None:
    with pytest.raises(InvalidInput, match="65535 x 1; scaled to a shorter edge of 256"):
        IMAGENET(Image.new("L", (65_535, 1)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_common_formats_decode(form: str) -> None:
    image = decode_image(encoded(noise(20, 10), form=form), max_pixels=MAX_PIXELS)
    assert image.size == (20, 10)


def test_a_view_decodes_like_bytes() -> None:
    image = noise(20, 10)
    body = memoryview(encoded(image, form="PNG"))
    assert decode_image(body, max_pixels=MAX_PIXELS).tobytes() == image.tobytes()


def test_an_empty_body_is_refused() -> None:
    with pytest.raises(InvalidInput, match="body is empty"):
        decode_image(b"", max_pixels=MAX_PIXELS)


def test_what_is_no_image_is_refused_with_its_beginning() -> None:
    with pytest.raises(InvalidInput, match=r"\(11 bytes, starting b'hello wo'\) is not an image"):
        decode_image(b"hello world", max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
@pytest.mark.parametrize("min_edge", [None, 10])
def test_a_cut_off_image_is_refused(form: str, min_edge: int | None) -> None:
    body = encoded(noise(100, 100), form=form)
    with pytest.raises(InvalidInput, match="damaged or cut off"):
        decode_image(body[: len(body) // 2], max_pixels=MAX_PIXELS, min_edge=min_edge)


@pytest.mark.parametrize(
    ("size", "min_edge", "decoded"),
    [
        ((640, 480), 256, (640, 480)),  # half would leave 240
        ((1024, 768), 256, (512, 384)),
        ((768, 1024), 256, (384, 512)),
        ((2048, 2048), 256, (256, 256)),
        ((9000, 300), 256, (9000, 300)),
        ((100, 100), 256, (100, 100)),
    ],
)
def test_a_jpeg_may_be_decoded_at_a_fraction_that_leaves_enough(
    size: tuple[int, int], min_edge: int, decoded: tuple[int, int]
) -> None:
    body = encoded(Image.new("RGB", size, "green"), form="JPEG")
    image = decode_image(body, max_pixels=MAX_PIXELS, min_edge=min_edge)
    assert image.size == decoded
    assert decode_image(body, max_pixels=MAX_PIXELS).size == size


def test_other_formats_are_decoded_whole() -> None:
    body = encoded(Image.new("RGB", (1024, 768)), form="PNG")
    assert decode_image(body, max_pixels=MAX_PIXELS, min_edge=256).size == (1024, 768)


def test_the_pixel_limit_is_that_of_the_whole_jpeg() -> None:
    body = encoded(Image.new("RGB", (1024, 768)), form="JPEG")
    with pytest.raises(InvalidInput, match="1024 x 768 pixels, over the limit of 300000"):
        decode_image(body, max_pixels=300_000, min_edge=256)


def test_an_image_over_the_pixel_limit_is_refused_before_it_is_decoded() -> None:
    body = encoded(Image.new("1", (5_000, 5_000)), form="PNG")
    assert len(body) < 10_000
    with pytest.raises(InvalidInput, match="5000 x 5000 pixels, over the limit of 1000000"):
        decode_image(body, max_pixels=1_000_000)


def test_an_image_over_pillows_own_limit_is_refused() -> None:
    header = b"P4\n100000 100000\n"  # 10 ** 10 pixels announced, none there
    with pytest.raises(InvalidInput, match="too large"):
        decode_image(header, max_pixels=10**12)


def test_postscript_is_refused_instead_of_run() -> None:
    with pytest.raises(InvalidInput, match="EPS"):
        decode_image(encoded(noise(4, 4), form="EPS"), max_pixels=MAX_PIXELS)


@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_damaged_images_decode_or_are_refused(data: st.DataObject, form: str) -> None:
    body = bytearray(encoded(noise(8, 8), form=form))
    for _ in range(data.draw(st.integers(min_value=1, max_value=4))):
        at = data.draw(st.integers(min_value=0, max_value=len(body) - 1))
        body[at] = data.draw(st.integers(min_value=0, max_value=255))
    try:
        image = decode_image(body, max_pixels=10_000)
    except InvalidInput:
        return
    assert image.width * image.height <= 10_000


def test_a_transform_survives_its_mapping() -> None:
    transform = ImageTransform(
        mode="L", resize=32, size=(28, 30), mean=(0.1307,), std=(0.3081,), interpolation="bicubic"
    )
    assert ImageTransform.from_mapping(transform.to_mapping()) == transform
    assert ImageTransform.from_mapping(IMAGENET.to_mapping()) == IMAGENET


def test_an_empty_mapping_scales_rgb_pixels_to_0_1_and_nothing_else() -> None:
    transform = ImageTransform.from_mapping({})
    assert transform == ImageTransform(mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)


def test_one_number_for_size_is_a_square() -> None:
    assert ImageTransform.from_mapping({"size": 224}).size == (224, 224)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"resise": 3}, r"image.key is 'resise'; did you mean 'resize'\?"),
        ({"crop": 3}, "image.key is 'crop'; use one of mode, resize, size"),
        ({"mode": "rgb"}, r"image.mode is 'rgb'; did you mean 'RGB'\?"),
        ({"mode": "CMYK"}, "image.mode is 'CMYK'; use one of L, RGB"),
        ({"mode": 3}, "image.mode is 3; give text"),
        ({"interpolation": "linear"}, r"'linear'; did you mean 'bilinear'\?"),
        ({"resize": 0}, "image.resize is 0; use 1 or more"),
        ({"resize": "256"}, "image.resize is '256'; give a whole number"),
        ({"resize": True}, "image.resize is True; give a whole number"),
        ({"size": [224]}, r"image.size is \[224\]; give \[height, width\]"),
        ({"size": True}, "image.size is True; give"),
        ({"size": [224, 0]}, "image.size is 0; use 1 or more"),
        ({"mean": 0.5}, "image.mean is 0.5; give a list of numbers"),
        ({"mean": [0.5]}, r"image.mean is \[0.5\]; give 3 finite numbers"),
        ({"std": [1, 0, 1]}, "each is divided by, use more than 0"),
        ({"std": [1, float("nan"), 1]}, "give 3 finite numbers"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_do(
    mapping: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageTransform.from_mapping(mapping)


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, flambeau.image; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SERVER_DIR)
