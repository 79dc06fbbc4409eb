"""Archives made for other versions and machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flambeau.errors import ArchiveError, UnsuitedArchive
from flambeau.required_runtime import REQUIRES_PATH, check_requires

HERE = {"torch": "2.13.0+cpu", "python": "3.11.7", "machine": "x86_64"}


def check(directory: Path, document: object) -> None:
    path = directory / REQUIRES_PATH
    path.parent.mkdir(exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    check_requires(directory, here=HERE)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"torch": ">=2.10,<3"},
        {"torch": "2.13"},
        {"torch": "== 2.13.0"},
        {"torch": "!=2.12"},
        {"python": "cp311"},
        {"python": ">3.10"},
        {"machine": "x86_64"},
    ],
)
def test_what_fits_is_taken(wishes: dict[str, str], tmp_path: Path) -> None:
    check(tmp_path, {"format": 1, **wishes})


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"torch": "2.3"}, r"needs torch 2\.3 and this server has 2\.13\.0\+cpu"),
        ({"torch": ">=99.0"}, r"needs torch >=99\.0 and this server has 2\.13"),
        ({"torch": "<2.13"}, r"needs torch <2\.13"),
        ({"python": "cp39"}, r"needs python cp39 and this server has 3\.11\.7"),
        ({"machine": "aarch64"}, r"made for aarch64 and this server runs on x86_64"),
        ({"format": 2}, "has format 2 and this server reads 1"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_here(
    wishes: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsuitedArchive, match=says):
        check(tmp_path, {"format": 1, **wishes})


@pytest.mark.parametrize(
    "document", ["{", "[]", '{"format": 1, "cuda": "12"}', '{"format": 1, "torch": 2}',
                 '{"format": 1, "torch": "~2"}'],
)  # fmt: skip
def test_a_file_that_is_wrong_is_told_as_such(document: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"requires\.json is wrong"):
        check(tmp_path, document)


def test_an_archive_without_the_file_needs_nothing(tmp_path: Path) -> None:
    check_requires(tmp_path)
