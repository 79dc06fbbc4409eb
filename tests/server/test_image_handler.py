from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from flambeau.context import Context
from flambeau.errors import InvalidInput
from flambeau.image_handler import ImageHandler
from flambeau.messages import InferenceRequest, Input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flambeau.codec import Row
    from flambeau.sample_handler import Sample


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Meeting(ImageHandler):
    """Decodes nothing before two threads do."""

    def __init__(self) -> None:
        super().__init__()
        self.both = threading.Barrier(2, timeout=60)

    def decode(self, row: Row, idx: int) -> Sample:
        self.both.wait()
        return (torch.tensor(idx),)


def asked(handler: ImageHandler, num_requests: int) -> ImageHandler:
    """The handler in the middle of a batch."""
    part = Input("body", None, memoryview(b""))
    handler.context = Context("mine", ".", {}, 8, None, "0.1")
    handler.context.begin_batch([InferenceRequest("id", [], [part])] * num_requests)
    return handler


def test_images_of_a_batch_are_decoded_at_the_same_time_and_kept_in_order() -> None:
    samples = Meeting().preprocess([{} for _ in range(6)])
    assert [int(sample[0]) for sample in samples if isinstance(sample, tuple)] == list(range(6))


def test_images_are_prepared_in_turn_by_what_somebody_else_wrote() -> None:
    handler = asked(ImageHandler(), 2)
    handler.image_processing = lambda _: torch.tensor(threading.get_ident())
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    samples = handler.preprocess([{"body": file.getvalue()}] * 2)
    assert samples == [(torch.tensor(threading.get_ident()),)] * 2


def test_a_bad_image_stands_in_its_place() -> None:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    rows: list[Row] = [{"body": file.getvalue()}, {"body": b"no image"}, {"body": file.getvalue()}]
    first, bad, last = asked(ImageHandler(), 3).preprocess(rows)
    assert isinstance(bad, InvalidInput)
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert torch.equal(first[0], last[0])
