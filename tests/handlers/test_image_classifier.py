from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from flambeau.errors import ArchiveError, ConfigError
from flambeau.image import IMAGENET
from flambeau.instance import ModelInstance
from flambeau.loading import load_handler
from flambeau.manifest import MANIFEST_PATH
from flambeau.messages import Failure, FailureKind, Input, LoadModel
from tests.handlers.serving import answers, explanations, part, serve

if TYPE_CHECKING:
    from pathlib import Path

SMALL = "handler:\n  image: {mode: RGB, resize: 8, size: 8}\n"

pytestmark = pytest.mark.usefixtures("imports_are_undone")


class ChannelMeans(torch.nn.Module):
    """Classes are the mean red, green and blue, ten times, so that the largest is sure."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) * 10


def load(root: Path, *, yaml: str | None = SMALL, labels: object = None) -> ModelInstance:
    """An archive with a model of three classes, loaded."""
    files = {} if labels is None else {"index_to_name.json": json.dumps(labels)}
    return serve(root, ChannelMeans(), handler="image_classifier", yaml=yaml, files=files)


def picture(color: str, *, form: str = "PNG", mode: str = "RGB", width: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 10), color).convert(mode).save(file, form)
    return file.getvalue()


def best(answer: dict[str, float] | Failure) -> str:
    assert isinstance(answer, dict), answer
    return next(iter(answer))


def test_an_answer_has_labels_with_probabilities_best_first(tmp_path: Path) -> None:
    instance = load(tmp_path, labels={"0": "red", "1": ["n0", "green"], "2": "blue"})
    (answer,) = answers(instance, part(picture("#00ff80")))
    assert isinstance(answer, dict)
    assert list(answer) == ["green", "blue", "red"]
    logits = torch.tensor([10.0, 10 * 128 / 255, 0.0])
    np.testing.assert_allclose(list(answer.values()), torch.softmax(logits, 0), rtol=1e-6)


def test_without_labels_classes_are_named_by_index(tmp_path: Path) -> None:
    (answer,) = answers(load(tmp_path), part(picture("blue")))
    assert best(answer) == "2"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("content_type", [None, "image/png", "application/octet-stream"])
def test_image_bytes_are_taken_whatever_they_are_called(
    tmp_path: Path, form: str, content_type: str | None
) -> None:
    (answer,) = answers(load(tmp_path), part(picture("red", form=form), content_type))
    assert best(answer) == "0"


def test_images_of_all_sizes_and_modes_share_a_batch(tmp_path: Path) -> None:
    red, grey, wide, transparent = answers(
        load(tmp_path),
        part(picture("red")),
        part(picture("white", mode="L")),
        part(picture("blue", width=500)),
        part(picture("lime", mode="RGBA"), name="data"),
    )
    assert [best(red), best(wide), best(transparent)] == ["0", "2", "1"]
    assert isinstance(grey, dict)
    assert len(grey) == 3


def test_base64_text_is_an_image_too(tmp_path: Path) -> None:
    text = base64.b64encode(picture("lime"))
    as_text, as_json = answers(
        load(tmp_path),
        part(text, "text/plain"),
        part(json.dumps(text.decode()).encode(), "application/json"),
    )
    assert best(as_text) == best(as_json) == "1"


def test_a_nested_list_is_the_models_input_already(tmp_path: Path) -> None:
    pixels = np.zeros((3, 8, 8))
    pixels[2] = 1.0
    body = json.dumps(pixels.tolist()).encode()
    (answer,) = answers(load(tmp_path), part(body, "application/json"))
    assert best(answer) == "2"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (part(b""), "body is empty"),
        (part(b"hello"), "is not an image"),
        (part(picture("red")[:50]), "damaged or cut off"),
        (part(b"not base64!", "text/plain"), "not base64"),
        (part(b"[[1, 2]]", "application/json"), "shape (1, 2), expected (3, 8, 8)"),
        (part(b"[1,", "application/json"), "not JSON"),
        (part(b"{}", "application/json"), "is an object"),
        (part(b"x", name="picture"), "the request has 'picture', expected 'body'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_fails_alone(tmp_path: Path, bad: Input, message: str) -> None:
    good = part(picture("blue"))
    before, failure, after = answers(load(tmp_path), good, bad, good)
    assert best(before) == best(after) == "2"
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID_INPUT
    assert message in failure.message


def test_without_settings_images_are_prepared_for_imagenet_models(tmp_path: Path) -> None:
    from_red = answers(load(tmp_path, yaml=None), part(picture("red")))[0]
    logits = 10 * IMAGENET(Image.new("RGB", (20, 10), "red")).mean((1, 2))
    assert isinstance(from_red, dict)
    expected = torch.softmax(torch.from_numpy(logits), 0)
    np.testing.assert_allclose(from_red["0"], expected[0], rtol=1e-5)


def test_a_misspelt_setting_fails_the_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'resize'"):
        load(tmp_path, yaml="handler:\n  image: {resise: 8}\n")


def test_images_of_different_sizes_are_answered_without_a_common_size(tmp_path: Path) -> None:
    instance = load(tmp_path, yaml="handler: {image: {}}\n")
    small, large = answers(instance, part(picture("red")), part(picture("blue", width=90)))
    assert [best(small), best(large)] == ["0", "2"]


def test_fast_jpeg_answers_nearly_the_same(tmp_path: Path) -> None:
    """At a fraction of its size an image is averaged in another way."""
    rng = np.random.default_rng(3)
    rough = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    file = io.BytesIO()
    rough.resize((200, 150), Image.Resampling.BICUBIC).save(file, "JPEG")
    yaml = "handler: {{image: {{resize: 32, size: 28}}, fast_jpeg: {}}}\n"
    exact, fast = (
        answers(load(tmp_path / word, yaml=yaml.format(word)), part(file.getvalue()))[0]
        for word in ("false", "true")
    )
    assert list(fast) == list(exact)
    assert fast != exact
    np.testing.assert_allclose(list(fast.values()), list(exact.values()), rtol=0.05)


def test_fast_jpeg_needs_a_size_to_go_for(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="fast_jpeg is set, but images are not resized"):
        load(tmp_path, yaml="handler: {image: {}, fast_jpeg: true}\n")


SUBCLASS = """
from flambeau.loading import load_builtin

class Mine(load_builtin("image_classifier").ImageClassifier):
    def initialize(self, context):
        super().initialize(context)
        self.set_max_result_classes(1)
"""


def test_a_handler_can_extend_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SUBCLASS)
    instance = load(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST_PATH).read_text())
    assert manifest["model"]["handler"] == "image_classifier"
    other = LoadModel("mine", "1", str(tmp_path), "mine:Mine", "cpu", 8, 1, 10_000, "0.1")
    mine = ModelInstance.load(other, load_entry_point=load_handler)
    (full,), (shortened,) = (answers(i, part(picture("red"))) for i in (instance, mine))
    assert isinstance(full, dict)
    assert isinstance(shortened, dict)
    assert len(full) == 3
    assert shortened == {"0": full["0"]}


def test_an_explanation_says_what_each_number_adds_to_a_class(tmp_path: Path) -> None:
    (answer,) = explanations(load(tmp_path), part(picture("#00ff80")), part("2", name="target"))
    pixels = np.array(answer)
    assert pixels.shape == (3, 8, 8)
    assert pixels[:2].max() == 0.0
    np.testing.assert_allclose(pixels[2].sum(), 10 * 128 / 255, rtol=1e-5)


def test_an_image_over_the_limit_is_answered_once_the_limit_is_lifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow refuses twice as many
    large = part(picture("red", width=20))
    (failure,) = answers(load(tmp_path), large)
    assert isinstance(failure, Failure)
    assert "too large" in failure.message
    unlimited = LoadModel(
        *("mine", "1", str(tmp_path), None, "cpu", 8, 1, 10_000, "0.1"),
        limit_max_image_pixels=False,
    )
    instance = ModelInstance.load(unlimited, load_entry_point=load_handler)
    (answer,) = answers(instance, large)
    assert best(answer) == "0"
