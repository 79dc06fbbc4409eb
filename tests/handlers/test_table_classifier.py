from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from flambeau.errors import ArchiveError
from flambeau.messages import Failure, Input
from flambeau.table_columns import TableColumns
from tests.handlers.serving import answers, part, serve

if TYPE_CHECKING:
    from pathlib import Path

    from flambeau.instance import ModelInstance

COLUMNS = TableColumns(names=("age", "colour"), categories={"colour": ("blue", "red", "7")})

pytestmark = pytest.mark.usefixtures("imports_are_undone")


class Numbers(torch.nn.Module):
    """Its logits are its inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def load(root: Path, *, columns: bytes | None = None) -> ModelInstance:
    files = {"columns.json": COLUMNS.to_json() if columns is None else columns}
    return serve(root, Numbers(), handler="table_classifier", files=files)


def row(document: object) -> Input:
    return part(json.dumps(document), "application/json")


def test_a_row_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    rows = [
        {"age": 3, "colour": "red"},
        {"colour": " blue ", "age": -0.5, "further": [1]},
        {"age": 0, "colour": "pink"},
        {"age": 1, "colour": 7},
    ]
    found = [list(answer.values()) for answer in answers(load(tmp_path), *map(row, rows))]
    numbers = torch.tensor([[3.0, 2], [-0.5, 1], [0, 0], [1, 3]])
    np.testing.assert_allclose(found, numbers.softmax(dim=1).numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"age": 3}, "the row has no 'colour'; send age, colour"),
        ({"age": None, "colour": "red"}, "the row has no 'age'"),
        ({"age": "old", "colour": "red"}, "'age' is 'old'; send a number"),
        ({"age": True, "colour": "red"}, "'age' is 'True'; send a number"),
        ({"age": 10**400, "colour": "red"}, "send a number"),
        ({"age": 3, "colour": ["red"]}, "'colour' is \"['red']\"; send one of blue, red, 7"),
        ([3, "red"], "the request is a list; send a JSON object of values by column"),
    ],
)
def test_an_odd_row_fails_alone(tmp_path: Path, document: object, message: str) -> None:
    good = row({"age": 3, "colour": "red"})
    first, failure, last = answers(load(tmp_path), good, row(document), good)
    assert first == last
    assert isinstance(failure, Failure)
    assert message in failure.message


@pytest.mark.parametrize(
    "columns", [b"", b"[]", b'{"names": ["a", 3], "categories": {}}', b'{"names": []}']
)
def test_an_archive_needs_its_columns(tmp_path: Path, columns: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"the archive has no columns\.json with names"):
        load(tmp_path, columns=columns)
