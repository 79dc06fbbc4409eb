"""Handlers that derive from TorchServe's built-in ones, as users write them."""

from __future__ import annotations

import base64
import importlib
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from flambeau import torchscript
from flambeau.instance import ModelInstance
from flambeau.manifest import MANIFEST_PATH
from flambeau.messages import Failure, FailureKind, Input, LoadModel
from flambeau.torchserve.loading import load_handler
from flambeau.torchserve.names_path import use_names
from tests.handlers.serving import answers, explanations, part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("imports_are_undone")


class ChannelMeans(torch.nn.Module):
    """Classes are the mean red, green and blue, ten times."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) * 10


class Pixels(torch.nn.Module):
    """A pixel's class is its brightest channel."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": images * 10}


class Boxes(torch.nn.Module):
    """Finds each image, surely, and something in it, perhaps."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = []
        for image in images:
            box = [0.0, 0.0, float(image.shape[2]), float(image.shape[1])]
            found.append(
                {
                    "boxes": torch.tensor([box, box]),
                    "labels": torch.tensor([1, 2]),
                    "scores": torch.tensor([0.75, 0.25]),
                }
            )
        return found


class Sentiment(torch.nn.Module):
    """Adds up how bad and how good the words of each text are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(3, 2, mode="sum")
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]))

    def forward(self, text: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.embedding(text, offsets)  # type: ignore[no-any-return]


def serve(
    root: Path,
    model: torch.nn.Module,
    source: str,
    *,
    files: Mapping[str, bytes] | None = None,
    limited: bool = True,
) -> ModelInstance:
    """An archive whose handler is this source, loaded as a worker does."""
    (root / "MAR-INF").mkdir(parents=True)
    manifest = {"model": {"modelName": "mine", "handler": "mine.py", "serializedFile": "model.pt"}}
    (root / MANIFEST_PATH).write_text(json.dumps(manifest))
    (root / "mine.py").write_text(source)
    torchscript.save(torchscript.script(model), root / "model.pt")
    for name, content in (files or {}).items():
        (root / name).write_bytes(content)
    load = LoadModel(
        *("mine", "1", str(root), None, "cpu", 8, 1, 6_553_500, "0.1"),
        limit_max_image_pixels=limited,
    )
    return ModelInstance.load(load, load_entry_point=load_handler)


def picture(color: str, width: int = 20, height: int = 10) -> Input:
    return part(file_of(color, width, height))


def file_of(color: str, width: int = 20, height: int = 10) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return file.getvalue()


DIGITS = """
import numpy as np
import torch
from ts.torch_handler.image_classifier import ImageClassifier

def small(image):
    pixels = np.asarray(image.convert("RGB").resize((2, 2))) / 255
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)

class Digits(ImageClassifier):
    image_processing = staticmethod(small)

    def __init__(self):
        super(Digits, self).__init__()

    def postprocess(self, data):
        return data.argmax(1).flatten().tolist()
"""


def test_a_classifier_prepares_images_and_answers_its_own_way(tmp_path: Path) -> None:
    instance = serve(tmp_path, ChannelMeans(), DIGITS)
    assert answers(instance, picture("lime"), picture("blue", 7, 9), picture("red")) == [1, 2, 0]


LABELLED = """
from ts.torch_handler.image_classifier import ImageClassifier

class Labelled(ImageClassifier):
    def initialize(self, context):
        super().initialize(context)
        self.set_max_result_classes(2)
        assert self.get_max_result_classes() == self.topk == 2
"""
LABELS = {"index_to_name.json": b'{"0": "red", "1": ["n1", "green"], "2": "blue"}'}


def test_a_classifier_gives_labels_best_first(tmp_path: Path) -> None:
    instance = serve(tmp_path, ChannelMeans(), LABELLED, files=LABELS)
    green, text, numbers = answers(
        instance,
        picture("lime"),
        part(base64.b64encode(file_of("blue")).decode(), "text/plain", name="data"),
        part(
            json.dumps(np.eye(3)[0].reshape(3, 1, 1).repeat(224, 1).repeat(224, 2).tolist()),
            "application/json",
        ),
    )
    assert [next(iter(answer)) for answer in (green, text, numbers)] == ["green", "blue", "red"]
    assert [len(answer) for answer in (green, text, numbers)] == [2, 2, 2]
    np.testing.assert_allclose(
        list(numbers.values()), torch.softmax(torch.tensor([10.0, 0.0, 0.0]), 0)[:2], rtol=1e-5
    )


def test_what_is_no_image_fails_alone(tmp_path: Path) -> None:
    instance = serve(tmp_path, ChannelMeans(), LABELLED, files=LABELS)
    before, *failures, after = answers(
        instance,
        picture("red"),
        part(b"hello"),
        part("no base64!", "text/plain"),
        part("x", name="other"),
        picture("blue"),
    )
    assert (next(iter(before)), next(iter(after))) == ("red", "blue")
    kinds = [failure.kind for failure in failures if isinstance(failure, Failure)]
    assert kinds == [FailureKind.INVALID_INPUT] * 3


def test_an_explanation_is_a_number_per_pixel(tmp_path: Path) -> None:
    instance = serve(tmp_path, ChannelMeans(), LABELLED, files=LABELS)
    (answer,) = explanations(instance, picture("red"), part("1", name="target"))
    pixels = np.array(answer)
    assert pixels.shape == (3, 224, 224)
    assert pixels[0].max() == 0.0


PLAIN = """
import io
import torch
from PIL import Image
from ts.torch_handler.vision_handler import VisionHandler

class Plain(VisionHandler):
    def preprocess(self, data):
        images = super().preprocess(data)
        assert isinstance(images, torch.Tensor)
        assert images.shape == (len(data), 3, 10, 20)
        return images

    def inference(self, data, *args, **kwargs):
        return super().inference(data * 2, *args, **kwargs)

    def postprocess(self, data):
        return [{"size": row} for row in data.tolist()]
"""


def test_the_base_of_vision_handlers_stacks_images_in_0_to_1(tmp_path: Path) -> None:
    instance = serve(tmp_path, ChannelMeans(), PLAIN)
    assert answers(instance, picture("red"), picture("white")) == [
        {"size": [20.0, 0.0, 0.0]},
        {"size": [20.0, 20.0, 20.0]},
    ]


OWN_PREPROCESS = """
import io
import torch
from PIL import Image
from ts.torch_handler.image_classifier import ImageClassifier

class Own(ImageClassifier):
    topk = 1

    def preprocess(self, data):
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            images.append(self.image_processing(Image.open(io.BytesIO(image))))
        return torch.stack(images)
"""


def test_a_handler_may_call_the_image_processing_itself(tmp_path: Path) -> None:
    instance = serve(tmp_path, ChannelMeans(), OWN_PREPROCESS, files=LABELS)
    (answer,) = answers(instance, picture("blue", 300, 400))
    assert list(answer) == ["blue"]


def test_the_limit_of_pixels_is_lifted_when_the_server_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow refuses twice as many
    limited = serve(tmp_path / "a", ChannelMeans(), LABELLED)
    (failure,) = answers(limited, picture("red"))
    assert isinstance(failure, Failure)
    unlimited = serve(tmp_path / "b", ChannelMeans(), LABELLED, limited=False)
    (answer,) = answers(unlimited, picture("red"))
    assert len(answer) == 2


SEGMENTER = """
from ts.torch_handler.image_segmenter import ImageSegmenter

class Mine(ImageSegmenter):
    def postprocess(self, data):
        assert set(data) == {"out"}
        return super().postprocess(data)
"""


def test_a_segmenter_tells_the_class_of_each_pixel(tmp_path: Path) -> None:
    red, blue = answers(serve(tmp_path, Pixels(), SEGMENTER), picture("red"), picture("blue"))
    assert np.array(red).shape == np.array(blue).shape == (224, 224, 2)
    assert np.unique(np.array(red)[:, :, 0]).tolist() == [0.0]
    assert np.unique(np.array(blue)[:, :, 0]).tolist() == [2.0]


DETECTOR = """
from ts.torch_handler.object_detector import ObjectDetector

class Mine(ObjectDetector):
    def __init__(self):
        super().__init__()
        self.seen = None

    def preprocess(self, data):
        images = super().preprocess(data)
        assert isinstance(images, list)
        return images
"""


@pytest.mark.parametrize(("threshold", "num_objects"), [("", 1), ("    threshold = 0.2\n", 2)])
def test_a_detector_tells_what_it_is_sure_of(
    tmp_path: Path, threshold: str, num_objects: int
) -> None:
    names = {"index_to_name.json": b'{"object_type_names": ["-", "whole", "part"]}'}
    instance = serve(tmp_path, Boxes(), DETECTOR + threshold, files=names)
    wide, high = answers(instance, picture("red", 30, 10), picture("red", 10, 30))
    assert wide[0] == {"whole": [0.0, 0.0, 30.0, 10.0], "score": 0.75}
    assert high[0] == {"whole": [0.0, 0.0, 10.0, 30.0], "score": 0.75}
    assert len(wide) == len(high) == num_objects


TEXTS = """
from ts.torch_handler.text_classifier import TextClassifier

class Mine(TextClassifier):
    ngrams = 1
"""
VOCABULARY = {"vocab.txt": b"<unk>\nbad\ngood\n", "index_to_name.json": b'{"0": "-", "1": "+"}'}


def test_a_text_classifier_answers_every_request_of_a_batch(tmp_path: Path) -> None:
    instance = serve(tmp_path, Sentiment(), TEXTS, files=VOCABULARY)
    good, failure, bad, both = answers(
        instance,
        part("Good!", "text/plain"),
        part("[1]", "application/json"),
        part(b"<b>bad</b>", name="data"),
        part("good, but bad", "text/plain"),
    )
    sure, unsure = torch.softmax(torch.tensor([2.0, 0.0]), 0).tolist()
    assert good == pytest.approx({"-": unsure, "+": sure})
    assert bad == pytest.approx({"-": sure, "+": unsure})
    assert both == pytest.approx({"-": 0.5, "+": 0.5})
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID_INPUT


def test_a_text_is_explained_by_its_words(tmp_path: Path) -> None:
    instance = serve(tmp_path, Sentiment(), TEXTS, files=VOCABULARY)
    asked = [part("good bad unheard", "text/plain"), part("1", name="target")]
    (answer,) = explanations(instance, *asked)
    assert answer["words"] == ["good", "bad", "<unk>"]
    np.testing.assert_allclose(answer["importances"], [2.0, 0.0, 0.0], atol=1e-5)


OLD_TEXTS = """
import torch
from ts.torch_handler.text_handler import TextHandler
from ts.torch_handler.contractions import CONTRACTION_MAP

class Mine(TextHandler):
    def preprocess(self, data):
        line = data[0].get("data") or data[0].get("body")
        text = self._remove_html_tags(line)
        text = text.lower()
        text = self._expand_contractions(text)
        text = self._remove_accented_characters(text)
        text = self._remove_puncutation(text)
        text = self._tokenize(text)
        assert CONTRACTION_MAP["isn't"] == "is not"
        return torch.as_tensor([self.source_vocab[token] for token in text], device=self.device)

    def inference(self, data, *args, **kwargs):
        return super().inference(data, torch.as_tensor([0], device=self.device))
"""


def test_a_text_handler_has_the_steps_that_handlers_call(tmp_path: Path) -> None:
    instance = serve(tmp_path, Sentiment(), OLD_TEXTS, files=VOCABULARY)
    (answer,) = answers(instance, part("It isn't <i>g</i>ood, good", "text/plain"))
    assert answer == [0.0, 4.0]


DENSENET = """
from ts.torch_handler.densenet_handler import DenseNetHandler

class Mine(DenseNetHandler):
    pass
"""


def saved(tensor: object) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


def test_tensors_come_and_go_as_torch_save_writes_them(tmp_path: Path) -> None:
    instance = serve(tmp_path, torch.nn.Linear(2, 3), DENSENET)
    model = torchscript.load(tmp_path / "model.pt", device="cpu")
    samples = [torch.ones(2), torch.zeros(2)]
    found = answers(instance, *(part(saved(sample)) for sample in samples), raw=True)
    for answer, sample in zip(found, samples, strict=True):
        tensor = torch.load(io.BytesIO(answer), weights_only=True)
        torch.testing.assert_close(tensor, model(sample[None]))


@pytest.mark.parametrize("body", [b"hello", saved([1]), saved({"a": torch.ones(2)})])
def test_what_is_no_tensor_is_refused(tmp_path: Path, body: bytes) -> None:
    (failure,) = answers(serve(tmp_path, torch.nn.Linear(2, 3), DENSENET), part(body))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID_INPUT


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("vision_handler", "VisionHandler BaseHandler"),
        ("image_classifier", "ImageClassifier VisionHandler map_class_to_label"),
        ("image_segmenter", "ImageSegmenter ImangeSegmenter"),
        ("object_detector", "ObjectDetector"),
        ("text_handler", "TextHandler BaseHandler"),
        ("text_classifier", "TextClassifier"),
        ("densenet_handler", "DenseNetHandler"),
        ("contractions", "CONTRACTION_MAP"),
    ],
)
def test_what_archives_import_is_there(module: str, names: str) -> None:
    use_names()
    found: Any = importlib.import_module(f"ts.torch_handler.{module}")
    for name in names.split():
        assert hasattr(found, name)
