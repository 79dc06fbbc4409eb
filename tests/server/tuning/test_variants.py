from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from flambeau.archive import digest, list_files, read_file, read_manifest, write_archive
from flambeau.errors import ArchiveError
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.store import ModelStore
from flambeau.testing import make_archive
from flambeau.tuning.candidate import Candidate
from flambeau.tuning.variants import Variants

HANDLER = "def handle(data, context): return data"
YAML = "# by hand\nbatchSize: 2\nthreadsPerWorker: 3\n"
CANDIDATE = Candidate(workers=2, batch_size=16, max_delay_ms=1)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_archive(
        tmp_path,
        name="m",
        handler=HANDLER,
        model_yaml=YAML,
        files={"weights.bin": b"w" * 2_000_000},
    )


@pytest.fixture
def variants(archive: Path, tmp_path: Path) -> Variants:
    directory = tmp_path / "variants"
    directory.mkdir()
    return Variants(archive, directory)


def test_a_variant_is_the_archive_with_other_settings(variants: Variants, tmp_path: Path) -> None:
    variant = variants.make(variants.yaml_of(CANDIDATE))
    with ModelStore(variants.store, scratch=tmp_path) as store:
        unpacked = store.unpack(store.find(variant.name))
        assert unpacked.manifest == variants.manifest
        text = (unpacked.directory / "model-config.yaml").read_text()
        assert (unpacked.directory / "weights.bin").read_bytes() == b"w" * 2_000_000
    # threads are shared out again: the archive's own number is for its own number of workers
    assert text == (
        "# by hand\nbatchSize: 16\nthreadsPerWorker: 0\nminWorkers: 2\nmaxWorkers: 2\n"
        "maxBatchDelay: 1\noptimize: safe\n"
    )


def test_variants_take_no_room_for_the_weights(variants: Variants) -> None:
    variant = variants.make(variants.yaml_of(CANDIDATE))
    assert (variant / "weights.bin").samefile(variants.content / "weights.bin")
    variants.remove(variant)
    assert not variant.exists()
    assert (variants.content / "weights.bin").is_file()


def test_the_archive_is_written_anew_and_the_old_one_left_alone(
    variants: Variants, archive: Path, tmp_path: Path
) -> None:
    before = digest(archive)
    new = tmp_path / "new.mar"
    variants.write_archive(new, variants.yaml_of(CANDIDATE))
    assert digest(archive) == before
    assert read_manifest(new) == read_manifest(archive)
    assert list_files(new).keys() == list_files(archive).keys()
    assert read_file(new, "model-config.yaml") == variants.yaml_of(CANDIDATE).encode()
    assert zipfile.ZipFile(new).testzip() is None


def test_an_archive_without_a_yaml_gets_one_and_keeps_what_we_do_not_know(tmp_path: Path) -> None:
    archive = tmp_path / "old.mar"
    write_archive(archive, manifest=Manifest(model_name="m"), files={"handler.py": b"pass"})
    with zipfile.ZipFile(archive) as zipped:
        document = json.loads(zipped.read(MANIFEST_PATH))
    document["model"]["sourceVocab"] = "vocab.pt"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(MANIFEST_PATH, json.dumps(document))
        zipped.writestr("handler.py", "pass")
    (tmp_path / "work").mkdir()
    variants = Variants(archive, tmp_path / "work")
    new = tmp_path / "new.mar"
    variants.write_archive(new, variants.yaml_of(CANDIDATE))
    assert read_manifest(new).config_file == "model-config.yaml"
    written = json.loads(read_file(new, MANIFEST_PATH) or b"")
    assert written["model"]["sourceVocab"] == "vocab.pt"


def test_a_directory_that_is_not_there_is_named(variants: Variants, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"nowhere.*cannot be written"):
        variants.write_archive(tmp_path / "nowhere" / "new.mar", "")
