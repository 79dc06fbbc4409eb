"""Batches of images, each decoded while the one before it is answered."""

from __future__ import annotations

import io
import json
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from flambeau.batch_loops import serve_batches
from flambeau.decode_ahead import WORTH_S
from flambeau.image import ImageTransform
from flambeau.image_handler import ImageHandler
from flambeau.messages import (
    BatchDone,
    BatchMode,
    Failure,
    FailureKind,
    InferenceRequest,
    Reply,
    RunBatch,
)
from tests.handlers.serving import part, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flambeau.instance import ModelInstance
    from flambeau.messages import ToFront, ToWorker

YAML = "handler:\n  image: {mode: RGB, resize: 8, size: 8}\n"
NAMES = ("red", "green", "blue")
WIDTHS = (300, 1200, 700, 1500)  # the larger ones take longer than WORTH_S

pytestmark = [pytest.mark.usefixtures("imports_are_undone"), pytest.mark.slow]


class ChannelMeans(torch.nn.Module):
    """Classes are the mean red, green and blue, ten times, so that the largest is sure."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) * 10


class Feed:
    """A channel with these batches on their way, and then its end."""

    def __init__(self, batches: Sequence[RunBatch]) -> None:
        self._coming = list(batches)
        self.receivers: list[str] = []
        self.done: list[BatchDone] = []

    def receive(self) -> ToWorker | None:
        self.receivers.append(threading.current_thread().name)
        return self._coming.pop(0) if self._coming else None

    def has_more(self) -> bool:
        return True

    def send(self, message: ToFront) -> None:
        assert isinstance(message, BatchDone)
        self.done.append(message)


def instance_of(root: Path) -> ModelInstance:
    labels = json.dumps(dict(enumerate(NAMES)))
    files = {"index_to_name.json": labels}
    return serve(root, ChannelMeans(), handler="image_classifier", yaml=YAML, files=files)


@lru_cache
def picture(color: str, width: int) -> bytes:
    """A noisy image, so that it is not decoded in no time."""
    noise = np.random.default_rng(width).integers(0, 60, (width, width, 3), dtype=np.uint8)
    noise[..., NAMES.index(color)] += 180
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def batch(number: int, *bodies: bytes, headers: Sequence[tuple[str, str]] = ()) -> RunBatch:
    requests = [
        InferenceRequest(f"{number}.{place}", list(headers), [part(body, "image/jpeg")])
        for place, body in enumerate(bodies)
    ]
    return RunBatch(batch_id=number, requests=requests)


def answered(instance: ModelInstance, batches: Sequence[RunBatch]) -> Feed:
    feed = Feed(batches)
    serve_batches(feed, instance, mode=BatchMode.IN_TURN)
    assert [done.batch_id for done in feed.done] == [each.batch_id for each in batches]
    return feed


def best(result: Reply | Failure) -> str:
    assert isinstance(result, Reply), result
    return next(iter(cast("dict[str, Any]", json.loads(bytes(result.body)))))


def test_batches_of_all_sizes_are_answered_in_order(tmp_path: Path) -> None:
    colors = [[NAMES[(row + place) % 3] for place in range(1 + row % 3)] for row in range(9)]
    batches = [
        batch(row, *(picture(color, WIDTHS[row % 4]) for color in line))
        for row, line in enumerate(colors)
    ]
    feed = answered(instance_of(tmp_path), batches)
    assert [[best(each) for each in done.results] for done in feed.done] == colors
    assert any(name.startswith("decode-ahead") for name in feed.receivers)
    assert max(done.decode_s for done in feed.done) >= WORTH_S


def test_only_built_in_handlers_of_images_decode_ahead(tmp_path: Path) -> None:
    own = "from flambeau.loading import load_builtin\n\n\nclass Own("
    own += "load_builtin('image_classifier').ImageClassifier):\n    pass\n"
    model = ChannelMeans()
    ours = serve(tmp_path / "ours", model, handler="image_classifier", yaml=YAML)
    numbers = serve(tmp_path / "numbers", model, handler="base_handler")
    theirs = serve(tmp_path / "theirs", model, handler="own", yaml=YAML, files={"own.py": own})
    assert isinstance(theirs.handler, ImageHandler)
    assert ours.decode_ahead() is not None
    assert numbers.decode_ahead() is None
    assert theirs.decode_ahead() is None


def test_an_image_that_is_none_fails_alone(tmp_path: Path) -> None:
    good = picture("green", 1500)
    batches = [batch(0, good), batch(1, good, good[:1000], good), batch(2, good)]
    first, second, third = answered(instance_of(tmp_path), batches).done
    assert best(first.results[0]) == best(third.results[0]) == "green"
    assert [isinstance(each, Reply) for each in second.results] == [True, False, True]
    bad = second.results[1]
    assert isinstance(bad, Failure)
    assert bad.kind is FailureKind.INVALID_INPUT


class Choosy(ImageTransform):
    """Raises what it must not at images of one width."""

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        if image.width == 700:
            raise KeyError("a bug")
        return super().__call__(image)


def test_a_batch_that_cannot_be_decoded_ahead_fails_in_its_turn_and_alone(tmp_path: Path) -> None:
    instance = instance_of(tmp_path)
    handler = instance.handler
    assert isinstance(handler, ImageHandler)
    handler.image_processing = Choosy.from_mapping({"mode": "RGB", "resize": 8, "size": 8})
    good, bad = picture("blue", 1500), picture("blue", 700)
    batches = [batch(0, good), batch(1, bad, good), batch(2, good)]
    first, second, third = answered(instance, batches).done
    assert [best(done.results[0]) for done in (first, third)] == ["blue", "blue"]
    assert second.results[0] == Failure(FailureKind.HANDLER_FAILED, "Prediction failed")
    assert best(second.results[1]) == "blue"


def test_an_explanation_among_them_is_answered_as_ever(tmp_path: Path) -> None:
    good = picture("red", 1500)
    explained = batch(1, good, headers=[("explain", "True")])
    first, second, third = answered(
        instance_of(tmp_path), [batch(0, good), explained, batch(2, good)]
    ).done
    assert best(first.results[0]) == best(third.results[0]) == "red"
    (reply,) = second.results
    assert isinstance(reply, Reply)
    assert np.asarray(json.loads(bytes(reply.body))).shape == (3, 8, 8)
