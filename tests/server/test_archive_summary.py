from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flambeau.archive import digest, write_archive
from flambeau.archive_summary import describe_archive
from flambeau.errors import ArchiveError
from flambeau.manifest import Manifest
from flambeau.signature import LINEAGE_PATH, PARITY_PATH, SIGNATURE_PATH

if TYPE_CHECKING:
    from pathlib import Path


def make(path: Path, **files: bytes) -> Path:
    write_archive(path, manifest=Manifest(model_name="m"), files=files)
    return path


def test_a_torchserve_archive_is_described_without_our_metadata(tmp_path: Path) -> None:
    path = make(tmp_path / "m.mar", weights=b"x" * 1234)
    text = describe_archive(path)
    assert digest(path) in text
    assert "model_name             m" in text
    assert "1,234  weights" in text
    assert "signature" not in text


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = make(
        tmp_path / "m.mar",
        **{
            LINEAGE_PATH: b'{"note\\u001b[2J": "\\u001b[31mred\\n\\u202e"}',
            SIGNATURE_PATH: b'{"inputs": [{"name": "\\u001b[2J", "dtype": "x", "shape": [null]}],'
            b'"outputs": [{"name": "y", "dtype": "x", "shape": [null, null]}]}',
        },
    )
    text = describe_archive(path)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred\\n" in text
    assert "output   y x (batch, any)" in text


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000])
def test_damaged_metadata_is_named(tmp_path: Path, content: bytes) -> None:
    path = make(tmp_path / "m.mar", **{PARITY_PATH: content})
    with pytest.raises(ArchiveError, match=r"MAR-INF/parity\.json is"):
        describe_archive(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.mar").write_text("hello")
    with pytest.raises(ArchiveError, match="not a zip file"):
        describe_archive(tmp_path / "m.mar")


def test_an_archive_without_a_manifest_is_told_from_one_that_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.pt").write_bytes(b"x")
    text = describe_archive(tmp_path / "model")
    assert "no MAR-INF/MANIFEST.json in it, so the defaults" in text
    assert "model_version          1.0" in text
    assert "so the defaults" not in describe_archive(make(tmp_path / "m.mar"))
