from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from flambeau.messages import Failure, FailureKind
from tests.handlers.serving import answers, explanations, part, serve

if TYPE_CHECKING:
    from pathlib import Path

SMALL = "handler:\n  image: {mode: RGB, resize: 4, size: 4}\n"

pytestmark = pytest.mark.usefixtures("imports_are_undone")


class Brightest(torch.nn.Module):
    """A pixel's class is its brightest channel; as torchvision's models, with a second output."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": images * 10, "aux": images}


class Bare(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * 10


def picture(left: str, right: str) -> bytes:
    image = Image.new("RGB", (8, 8), left)
    image.paste(Image.new("RGB", (4, 8), right), (4, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("model", [Brightest(), Bare()], ids=["dict", "tensor"])
def test_each_pixel_has_a_class_and_its_probability(tmp_path: Path, model: torch.nn.Module) -> None:
    instance = serve(tmp_path, model, handler="image_segmenter", yaml=SMALL)
    first, second = answers(instance, part(picture("red", "blue")), part(picture("lime", "lime")))
    pixels = np.array(first)
    assert pixels.shape == (4, 4, 2)
    assert pixels[:, 0, 0].tolist() == [0.0] * 4
    assert pixels[:, 3, 0].tolist() == [2.0] * 4
    sure = torch.softmax(torch.tensor([10.0, 0.0, 0.0]), 0)[0].item()
    np.testing.assert_allclose(pixels[:, 0, 1], sure, rtol=1e-5)
    assert np.array(second)[..., 0].tolist() == [[1.0] * 4] * 4


def test_what_is_no_image_fails_alone(tmp_path: Path) -> None:
    instance = serve(tmp_path, Brightest(), handler="image_segmenter", yaml=SMALL)
    good, bad = answers(instance, part(picture("red", "red")), part(b"hello"))
    assert np.array(good)[..., 0].tolist() == [[0.0] * 4] * 4
    assert isinstance(bad, Failure)
    assert bad.kind is FailureKind.INVALID_INPUT


def test_numbers_are_the_models_input_already(tmp_path: Path) -> None:
    instance = serve(tmp_path, Brightest(), handler="image_segmenter", yaml=SMALL)
    pixels = np.zeros((3, 4, 4))
    pixels[2] = 1
    (answer,) = answers(instance, part(json.dumps(pixels.tolist()), "application/json"))
    assert np.array(answer)[..., 0].tolist() == [[2.0] * 4] * 4


def test_an_explanation_of_one_class_adds_up_to_its_score(tmp_path: Path) -> None:
    instance = serve(tmp_path, Bare(), handler="image_segmenter", yaml=SMALL)
    (answer,) = explanations(instance, part(picture("red", "blue")))
    assert np.array(answer).shape == (3, 4, 4)
    np.testing.assert_allclose(np.array(answer).sum(), 10 * 8, rtol=1e-5)
