from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flambeau.torchserve.workflow_archiver import main


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("dogs.yaml", "functions.py", "labels.json"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_workflow_is_packed_with_its_manifest(sources: Path) -> None:
    (sources / "out").mkdir()
    command = [sys.executable, "-m", "flambeau.torchserve.workflow_archiver"]
    command += ["--workflow-name", "dogs", "--spec-file", "./dogs.yaml", "--handler"]
    command += ["functions.py", "--extra-files", "*.json", "--export-path", "out"]
    subprocess.run(command, check=True, cwd=sources)
    with zipfile.ZipFile(sources / "out" / "dogs.war") as zipped:
        files = {name: zipped.read(name) for name in zipped.namelist()}
    document = json.loads(files.pop("WAR-INF/MANIFEST.json"))
    assert document.keys() == {"createdOn", "archiverVersion", "workflow"}
    assert document["workflow"] == {
        "workflowName": "dogs",
        "specFile": "dogs.yaml",
        "handler": "functions.py",
    }
    assert files == {name: name.encode() for name in ("dogs.yaml", "functions.py", "labels.json")}


def test_a_workflow_needs_no_functions(sources: Path) -> None:
    assert main(["--workflow-name", "dogs", "--spec-file", "dogs.yaml"]) == 0
    with zipfile.ZipFile("dogs.war") as zipped:
        workflow = json.loads(zipped.read("WAR-INF/MANIFEST.json"))["workflow"]
    assert workflow == {"workflowName": "dogs", "specFile": "dogs.yaml"}


def test_an_archive_is_overwritten_on_demand_only(
    sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--workflow-name", "dogs", "--spec-file", "dogs.yaml"]
    assert main(flags) == 0
    assert main(flags) == 1
    assert "already exists; give --force/-f" in caplog.text
    assert main([*flags, "-f"]) == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--workflow-name", "a/b", "--spec-file", "dogs.yaml"], "special characters"),
        (["--workflow-name", "a", "--spec-file", "none.yaml"], "does not exist: none.yaml"),
        (
            ["--workflow-name", "a", "--spec-file", "dogs.yaml", "--export-path", "no"],
            "is not a directory",
        ),
    ],
)
def test_what_cannot_be_packed_is_said(
    flags: list[str], says: str, sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(flags) == 1
    assert says in caplog.text
    assert not list(sources.glob("*.war"))
