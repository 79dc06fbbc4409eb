from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.cli import main
from flambeau.errors import TuningError
from flambeau.testing import make_archive
from flambeau.tuning.command import find_archive

HANDLER = "def handle(data, context): return data"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    for name, version in (("one", "1.0"), ("two", "1.0"), ("two", "2.0")):
        make_archive(path, name=name, handler=HANDLER, version=version)
    (path / "broken.mar").write_bytes(b"no archive")
    return path


def test_an_archive_is_a_file_an_entry_of_the_store_or_its_model(store: Path) -> None:
    expected = store / "one-1.0.mar"
    assert find_archive(str(expected), Path("elsewhere")) == expected
    assert find_archive("one-1.0.mar", store) == expected
    assert find_archive("one", store) == expected


def test_a_model_of_several_archives_is_not_guessed(store: Path) -> None:
    with pytest.raises(TuningError, match=r"2 archives .*two-1\.0\.mar, two-2\.0\.mar; name one"):
        find_archive("two", store)


def test_a_name_that_means_nothing_is_told_what_there_is(store: Path) -> None:
    with pytest.raises(TuningError, match=r"neither a file nor in .*one-1\.0\.mar"):
        find_archive("three", store)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--slo", "fast"], "write it like p99=20ms"),
        (["--slo", "p99=1s", "--budget", "5"], "--budget is '5'"),
        (["--slo", "p99=1s", "--output", "{store}/one-1.0.mar"], "the archive that is tuned"),
        (["--slo", "p99=1s", "--archive", "{store}/two-1.0.mar"], "exists; choose another path"),
        (["--slo", "p99=1s", "--output", "/nowhere/x.yaml"], "/nowhere is no directory to write"),
        (["--slo", "p99=1s"], "the archive has no samples to make requests of"),
        (["--slo", "p99=1s", "--body", "/nowhere/x.jpg"], "/nowhere/x.jpg cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    flags: list[str], message: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag.format(store=store) for flag in flags]
    assert main(["tune", "one", "--model-store", str(store), *given]) == 2
    assert message in capsys.readouterr().err
