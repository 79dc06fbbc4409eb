from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.errors import ArchiveError
from flambeau.model_yaml import read_model_yaml


def test_a_model_without_yaml_has_no_wishes(tmp_path: Path) -> None:
    assert read_model_yaml(tmp_path, None) == {}
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_model_yaml(tmp_path, "empty.yaml") == {}


def test_the_whole_document_is_given(tmp_path: Path) -> None:
    (tmp_path / "model-config.yaml").write_text(
        "batchSize: 8\nhandler: {image: {size: [28, 28]}}\n"
    )
    assert read_model_yaml(tmp_path, "model-config.yaml") == {
        "batchSize": 8,
        "handler": {"image": {"size": [28, 28]}},
    }


@pytest.mark.parametrize(
    "text",
    [
        b"[1, 2]",
        b"a: [",
        b"!!python/object:os.system {}",
        b"\xff\xfe\x00\xd8",
        b"a: " + b"[" * 5000,
        b"a: 2026-99-99",
    ],
)
def test_a_yaml_that_is_no_mapping_of_plain_values_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "model-config.yaml").write_bytes(text)
    with pytest.raises(ArchiveError, match=r"model-config\.yaml is"):
        read_model_yaml(tmp_path, "model-config.yaml")


def test_a_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"'model-config\.yaml', which is not in the archive"):
        read_model_yaml(tmp_path, "model-config.yaml")


def test_a_yaml_of_a_model_is_small(tmp_path: Path) -> None:
    (tmp_path / "model-config.yaml").write_text("#" * (1 << 20) + "\na: 1\n")
    with pytest.raises(ArchiveError, match=r"model-config\.yaml has 1048582 bytes"):
        read_model_yaml(tmp_path, "model-config.yaml")
