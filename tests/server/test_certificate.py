"""A certificate is of these very files, or the archive is refused when it is unpacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import flambeau
from flambeau.archive import read_manifest, unpack, write_archive
from flambeau.certificate import read_certificate
from flambeau.certificate_table import certificate_table
from flambeau.errors import ArchiveError
from flambeau.parity import Samples, Tolerance, read_samples
from flambeau.signature import PARITY_PATH, PROGRAMS_PATH, SAMPLES_PATH

META = ("MAR-INF/MANIFEST.json", "MAR-INF/files.json")


def exported(directory: Path, **options: Any) -> Path:  # noqa: ANN401  # of `export`
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    return flambeau.export(
        model, torch.randn(5, 3), name="m", version="1", path=directory, **options
    ).path


def packed_again(archive: Path, *, digests: bool, **changed: bytes) -> Path:
    """The archive with other files in it, whose own list of digests fits them."""
    content = archive.parent / "content"
    unpack(archive, content)
    files: dict[str, Path | bytes] = {
        path.relative_to(content).as_posix(): path for path in content.rglob("*") if path.is_file()
    }
    files = {name: file for name, file in files.items() if name not in META} | dict(changed)
    again = archive.parent / "again.mar"
    write_archive(again, manifest=read_manifest(archive), files=files, digests=digests)
    return again


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("name", ["model.pt", SAMPLES_PATH])
def test_an_exchanged_file_is_refused_by_name(tmp_path: Path, name: str, *, digests: bool) -> None:
    archive = exported(tmp_path)
    torch.manual_seed(1)
    other = flambeau.export(
        torch.nn.Linear(3, 4), torch.randn(5, 3), name="other", version="1", path=tmp_path
    ).path
    unpack(other, tmp_path / "other")
    changed = {name: (tmp_path / "other" / name).read_bytes()}
    again = packed_again(archive, digests=digests, **changed)
    with pytest.raises(
        ArchiveError, match=rf"MAR-INF/parity\.json is about another {name}: it say"
    ):
        unpack(again, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_an_exchanged_program_beside_the_served_one_is_refused(tmp_path: Path) -> None:
    archive = exported(tmp_path, precisions=["fp32", "bf16"])
    again = packed_again(archive, digests=True, **{"model.torchscript.bf16.pt": b"other"})
    with pytest.raises(ArchiveError, match=r"is about another model\.torchscript\.bf16\.pt"):
        unpack(again, tmp_path / "refused")


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    archive = exported(tmp_path)
    parity = {"tolerance": {"atol": 0, "rtol": 0}, "programs": [{"file": "x.pt", "sha256": "00"}]}
    again = packed_again(archive, digests=True, **{PARITY_PATH: json.dumps(parity).encode()})
    with pytest.raises(ArchiveError, match=r"another x\.pt: it says SHA-256 00, and there is none"):
        unpack(again, tmp_path / "refused")


@pytest.mark.parametrize("name", ["../model.pt", "MAR-INF/MANIFEST.json", ".hidden"])
def test_a_certificate_is_of_files_at_the_top(tmp_path: Path, name: str) -> None:
    archive = exported(tmp_path)
    listed = {"file": name, "target": "torchscript", "precision": "fp32", "sha256": "00"}
    text = json.dumps({"format": 1, "programs": [listed]}).encode()
    again = packed_again(archive, digests=True, **{PROGRAMS_PATH: text})
    with pytest.raises(ArchiveError, match="which is no file at the archive's top"):
        unpack(again, tmp_path / "refused")


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"format": 1, "programs": [{"file": 3}]}'])
def test_a_damaged_list_of_programs_is_named(tmp_path: Path, text: bytes) -> None:
    again = packed_again(exported(tmp_path), digests=True, **{PROGRAMS_PATH: text})
    with pytest.raises(ArchiveError, match=r"MAR-INF/programs\.json lists no programs"):
        unpack(again, tmp_path / "refused")


def test_a_list_of_a_later_format_is_left_alone(tmp_path: Path) -> None:
    text = b'{"format": 2, "programs": []}'
    unpack(packed_again(exported(tmp_path), digests=True, **{PROGRAMS_PATH: text}), tmp_path / "m")


def test_a_certificate_of_an_earlier_form_says_less(tmp_path: Path) -> None:
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / PARITY_PATH).write_text('{"tolerance": {"atol": 0.5, "rtol": 0.25}}')
    certificate = read_certificate(tmp_path)
    assert certificate is not None
    assert (certificate.tolerance, certificate.digests) == ({"atol": 0.5, "rtol": 0.25}, {})


def test_what_the_served_program_was_held_to_is_read_with_its_samples(tmp_path: Path) -> None:
    unpack(exported(tmp_path, precisions=["bf16"]), tmp_path / "model")
    samples = read_samples(tmp_path / "model")
    assert isinstance(samples, Samples)
    assert samples.tolerance == Tolerance(share=0.03, top1=1.0)


def test_the_table_shows_every_program_and_size(tmp_path: Path) -> None:
    unpack(exported(tmp_path, precisions=["bf16", "fp32"]), tmp_path / "model")
    document = json.loads((tmp_path / "model" / PARITY_PATH).read_text())
    where, titles, served, beside, sizes = certificate_table(document)
    assert where.startswith(f"5 samples, compared with torch {torch.__version__} on ")
    assert titles.split()[:3] == ["program", "target", "precision"]
    assert served.split()[:3] == ["model.pt", "torchscript", "fp32"]
    assert beside.split()[:3] == ["model.torchscript.bf16.pt", "torchscript", "bf16"]
    assert served.endswith("pass")
    assert sizes == "at batch 1, 2, 7, 16"
