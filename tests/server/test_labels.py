from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from flambeau.errors import ArchiveError
from flambeau.labels import label_of, load_label_mapping

if TYPE_CHECKING:
    from pathlib import Path


def test_a_class_without_a_name_is_its_index() -> None:
    assert label_of(1, {"0": "cat", "1": "dog"}) == "dog"
    assert label_of(7, {"0": "cat"}) == "7"
    assert label_of(7, None) == "7"


def test_without_a_file_there_are_no_labels(tmp_path: Path) -> None:
    assert load_label_mapping(tmp_path / "index_to_name.json") is None


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"0": "cat", "1": "dog"}, {"0": "cat", "1": "dog"}),
        ({"0": ["n02123045", "tabby"]}, {"0": "tabby"}),
        ({"object_type_names": ["cat", "dog"]}, {"0": "cat", "1": "dog"}),
    ],
)
def test_labels_are_read_in_three_forms(
    tmp_path: Path, document: object, expected: dict[str, str]
) -> None:
    path = tmp_path / "index_to_name.json"
    path.write_text(json.dumps(document))
    assert load_label_mapping(path) == expected


@pytest.mark.parametrize("text", ["{", "[1]", '{"0": {}}', '{"0": []}'])
def test_labels_in_another_form_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "index_to_name.json"
    path.write_text(text)
    with pytest.raises(ArchiveError, match=r"index_to_name\.json"):
        load_label_mapping(path)
