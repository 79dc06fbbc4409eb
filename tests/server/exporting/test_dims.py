"""Sizes that are open beside the batch: proved at their edges, refused where they are frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flambeau
from flambeau.archive import read_file
from flambeau.errors import ExportError
from flambeau.exporting.dims import DynamicDim
from flambeau.exporting.module import ExportReport

LENGTH = DynamicDim(name="length", min=2, max=12, places={"tokens": 1, "mask": 1})


class Text(nn.Module):
    """Scores of a text, and of each of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 3)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.head(self.embedding(tokens)) * mask.unsqueeze(-1)
        return scores.mean(1), scores


class OfFour(nn.Module):
    """The length becomes a Python number, which a trace records as it is."""

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (tokens * mask).sum(1, keepdim=True) / int(tokens.shape[1])


def inputs(length: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(20, (3, length), generator=generator)
    return tokens, torch.rand(3, length, generator=generator)


def export(model: nn.Module, path: Path, given: Any = None, **options: Any) -> ExportReport:  # noqa: ANN401
    torch.manual_seed(0)
    settings: dict[str, Any] = {"dims": [LENGTH], **options}
    return flambeau.export(
        model, inputs() if given is None else given, name="m", version="1", path=path, **settings
    )


@pytest.mark.parametrize("target", ["torchscript", "torch_export"])
def test_every_open_size_is_proved_at_its_edges(tmp_path: Path, target: str) -> None:
    report = export(Text(), tmp_path, target=target)
    parity = json.loads(read_file(report.path, "MAR-INF/parity.json") or b"")
    (program,) = parity["programs"]
    sizes = [(entry["batch"], entry.get("length")) for entry in program["sizes"]]
    assert sizes == [
        *((1, None), (2, None), (7, None), (16, None)),
        *((2, 2), (2, 7), (2, 12)),
        *((1, 2), (16, 12)),
    ]
    assert [item.shape for item in report.signature.inputs] == [(None, None)] * 2
    assert [item.shape for item in report.signature.outputs] == [(None, 3), (None, None, 3)]


def test_samples_of_one_token_leave_the_length_open_too(tmp_path: Path) -> None:
    dim = DynamicDim(name="length", min=1, max=5, places={"tokens": 1, "mask": 1})
    report = export(Text(), tmp_path, inputs(1), target="torch_export", dims=[dim])
    assert report.signature.inputs[0].shape == (None, None)


def test_a_trace_that_froze_a_length_is_refused(tmp_path: Path) -> None:
    says = r"with a batch of 3 and does not follow a batch of 2 and length 2 \(sample \d, output 0"
    with pytest.warns(Warning, match="Python integer"), pytest.raises(ExportError, match=says):
        export(OfFour(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_take_a_size_is_blamed_itself(tmp_path: Path) -> None:
    class Short(Text):
        def forward(
            self, tokens: torch.Tensor, mask: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            places = torch.arange(8)[: tokens.shape[1]]
            return super().forward(tokens + 0 * places, mask)

    with pytest.raises(ExportError, match="fails on its samples with length 12: RuntimeError"):
        export(Short(), tmp_path)


def test_a_dimension_is_read_from_a_command_line() -> None:
    assert DynamicDim.from_text("length=2:12:tokens.1,mask.1") == LENGTH


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("length", "is not NAME=MIN:MAX"),
        ("length=2:12:tokens", "is not NAME=MIN:MAX"),
        ("length=2:12:tokens.0", "is not NAME=MIN:MAX"),
        ("length=0:12:tokens.1", "dimension length is 0 to 12"),
        ("length=12:12:tokens.1", "dimension length is 12 to 12"),
        ("batch=1:12:tokens.1", "is called 'batch'"),
    ],
)
def test_what_is_no_dimension_is_told(text: str, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        DynamicDim.from_text(text)


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"words": 1}, "dimension length is of input 'words'; the model has tokens, mask"),
        ({"tokens": 2}, r"input of shape \[3, 4\] has no such axis at axis 2"),
    ],
)
def test_a_dimension_that_inputs_do_not_have_is_told(
    tmp_path: Path, places: dict[str, int], says: str
) -> None:
    dim = DynamicDim(name="length", min=2, max=12, places=places)
    with pytest.raises(ExportError, match=says):
        export(Text(), tmp_path, dims=[dim])


def test_samples_outside_the_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"shape \[3, 13\] has 13 at axis 1"):
        export(Text(), tmp_path, inputs(13))


def test_two_dimensions_at_one_place_are_refused(tmp_path: Path) -> None:
    other = DynamicDim(name="width", min=2, max=12, places={"mask": 1})
    with pytest.raises(ExportError, match=r"two dimensions are at mask\.1"):
        export(Text(), tmp_path, dims=[LENGTH, other])
