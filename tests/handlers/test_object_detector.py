from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from flambeau.errors import ArchiveError
from flambeau.messages import Failure, FailureKind
from tests.handlers.serving import answers, explanations, part, serve

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("imports_are_undone")


class Corners(torch.nn.Module):
    """Finds the whole image, a dot in its corner, and something that it is not sure of."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = []
        for image in images:
            height, width = float(image.shape[1]), float(image.shape[2])
            boxes = [[0.0, 0.0, width, height], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0]]
            found.append(
                {
                    "boxes": torch.tensor(boxes),
                    "labels": torch.tensor([1, 0, 1]),
                    "scores": torch.tensor([0.75, 0.5, 0.25]),
                }
            )
        return found


class WithLosses(torch.nn.Module):
    """Torchvision's scripted detectors give losses, too."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Corners()

    def forward(
        self, images: list[torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        losses: dict[str, torch.Tensor] = {}
        return losses, self.detector(images)


class Narrow(torch.nn.Module):
    """Cannot bear images that are wider than 100 pixels."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = []
        for image in images:
            assert image.shape[2] <= 100
            found.append(
                {
                    "boxes": torch.zeros(0, 4),
                    "labels": torch.zeros(0, dtype=torch.int64),
                    "scores": torch.zeros(0),
                }
            )
        return found


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("model", [Corners(), WithLosses()], ids=["plain", "with losses"])
def test_images_of_all_sizes_share_a_call(tmp_path: Path, model: torch.nn.Module) -> None:
    names = {"index_to_name.json": json.dumps({"object_type_names": ["dot", "picture"]})}
    instance = serve(tmp_path, model, handler="object_detector", files=names)
    wide, small = answers(instance, part(picture(30, 10)), part(picture(7, 8)))
    assert wide == [
        {"picture": [0.0, 0.0, 30.0, 10.0], "score": 0.75},
        {"dot": [0.0, 0.0, 1.0, 1.0], "score": 0.5},
    ]
    assert small[0] == {"picture": [0.0, 0.0, 7.0, 8.0], "score": 0.75}


def test_the_least_score_stands_in_the_yaml(tmp_path: Path) -> None:
    instance = serve(
        tmp_path, Corners(), handler="object_detector", yaml="handler: {threshold: 0.7}"
    )
    (answer,) = answers(instance, part(picture(3, 3)))
    assert answer == [{"1": [0.0, 0.0, 3.0, 3.0], "score": 0.75}]


def test_a_score_that_is_none_fails_the_load(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="threshold is 70; use 0 to 1"):
        serve(tmp_path, Corners(), handler="object_detector", yaml="handler: {threshold: 70}")


def test_what_is_no_image_fails_alone(tmp_path: Path) -> None:
    instance = serve(tmp_path, Corners(), handler="object_detector")
    good, bad = answers(instance, part(picture(3, 3)), part(b"hello"))
    assert len(good) == 2
    assert isinstance(bad, Failure)
    assert bad.kind is FailureKind.INVALID_INPUT


def test_an_image_that_the_model_cannot_bear_fails_alone(tmp_path: Path) -> None:
    instance = serve(tmp_path, Narrow(), handler="object_detector")
    images = [part(picture(width, 3)) for width in (3, 4, 500, 5, 6)]
    *before, failure, fourth, fifth = answers(instance, *images)
    assert before == [[], []]
    assert (fourth, fifth) == ([], [])
    assert failure == Failure(FailureKind.HANDLER_FAILED, "Prediction failed")


def test_explanations_are_refused_with_the_reason(tmp_path: Path) -> None:
    instance = serve(tmp_path, Corners(), handler="object_detector")
    (failure,) = explanations(instance, part(picture(3, 3)))
    assert isinstance(failure, Failure)
    assert failure.message == "ObjectDetector gives no explanations"
