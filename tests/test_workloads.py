"""What servers are compared with: it has to be the same work for all of them, in every run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import formats
from benchmarks.workloads import photos, text
from flambeau.instance import ModelInstance
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import LoadModel
from flambeau.torchserve.loading import load_handler
from tests.handlers.serving import answers, part

if TYPE_CHECKING:
    from pathlib import Path


def test_a_photo_has_the_wanted_bytes_and_is_always_the_same() -> None:
    (photo,) = photos.photos(1)
    assert len(photo) == pytest.approx(photos.NUM_BYTES, rel=0.03)
    assert Image.open(io.BytesIO(photo)).size == photos.SIZES[0]
    assert photos.photos(1) == [photo]


def test_the_models_whose_formats_are_compared_take_their_inputs() -> None:
    with torch.inference_mode():
        for subject in formats.subjects():
            assert len(subject.model(*subject.inputs(3))) == 3, subject.name


def test_texts_have_5_to_128_known_words() -> None:
    made = text.texts(200)
    lengths = [len(one.split()) for one in made]
    assert (min(lengths), max(lengths)) == (text.MIN_WORDS, text.MAX_WORDS)
    known = set(text.words())
    assert {word.strip(",.").lower() for one in made for word in one.split()} <= known
    assert text.texts(200) == made


def served(directory: Path, *, handler: str) -> ModelInstance:
    text.write_text_model(directory)
    manifest = Manifest(
        handler=handler,
        model_file="text_model.py",
        serialized_file="weights.pt",
        config_file="model-config.yaml",
    )
    (directory / MANIFEST_PATH).parent.mkdir()
    (directory / MANIFEST_PATH).write_text(manifest.to_json())
    load = LoadModel("mine", "1", str(directory), None, "cpu", 16, 1, 1_000_000, "0.1")
    return ModelInstance.load(load, load_entry_point=load_handler)


@pytest.mark.usefixtures("imports_are_undone")
def test_both_handlers_of_the_text_model_answer_the_same(tmp_path: Path) -> None:
    bodies = [part(one, "text/plain; charset=utf-8") for one in text.texts(16)]
    ours, torchserves = (
        answers(served(tmp_path / name, handler=handler), *bodies)
        for name, handler in (("ours", "text_classifier"), ("torchserve", "text_handler.py"))
    )
    assert [list(answer) for answer in ours] == [list(text.CLASSES)] * 16
    np.testing.assert_allclose(_shares(ours), _shares(torchserves), rtol=1e-4, atol=1e-6)
    assert np.ptp(_shares(ours), axis=0).max() > 0.1  # texts of different classes


def _shares(found: list[Any]) -> list[list[float]]:
    return [list(answer.values()) for answer in found]
