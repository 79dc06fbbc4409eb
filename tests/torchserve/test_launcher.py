from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from flambeau.torchserve import launcher
from flambeau.torchserve.launcher import start, stop
from flambeau.torchserve.pid_file import PidFile
from tests.torchserve.torchserve_command import FREE_PORTS, READY

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a model store and a place for temporary files of its own."""
    (tmp_path / "store").mkdir()
    (tmp_path / "tmp").mkdir()
    lines = [f"{key}={value}\n" for key, value in FREE_PORTS.items()]
    (tmp_path / "given.properties").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_program_starts_a_server_reads_what_it_prints_and_ends_it(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = start(model_store="store", snapshot_file="given.properties", no_config_snapshots=True)
    assert PidFile.default().running() is not None
    assert READY in capfd.readouterr().out
    stop()
    assert PidFile.default().running() is None
    printed: list[str] = []
    while (line := lines.get(timeout=60)) is not None:
        printed.append(line)
    assert any("server stopped" in line for line in printed)


def test_a_server_that_does_not_start_is_an_error_that_says_why(home: Path) -> None:
    with pytest.raises(RuntimeError, match="--model-store directory not found: gone"):
        start(model_store="gone")


def test_ts_has_the_launcher_s_names() -> None:
    names = Path(launcher.__file__).with_name("names") / "ts" / "launcher.py"
    for name in ("start", "stop", "register_model", "register_model_with_params"):
        assert callable(getattr(launcher, name))
        assert f'"{name}"' in names.read_text()
