"""What the image with TorchServe's paths runs; the scripts are tried with a stand-in for python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flambeau.torchserve import java_properties
from flambeau.torchserve.properties import Properties
from flambeau.torchserve.settings import settings_of

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "deploy" / "torchserve" / "bin"
SERVE = (
    "-m flambeau.torchserve --start --foreground "
    "--ts-config /home/model-server/config.properties --disable-token-auth"
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the scripts are found, and a `python` that says what it was to run."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    return f"{tmp_path}:{SCRIPTS}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("dockerd-entrypoint.sh", SERVE),
        ("dockerd-entrypoint.sh serve --models all", f"{SERVE} --models all"),
        (
            "dockerd-entrypoint.sh torchserve --start --models all",
            "-m flambeau.torchserve --foreground --start --models all",
        ),
        ("dockerd-entrypoint.sh echo hello", "hello"),
        ("torchserve --stop", "-m flambeau.torchserve --stop"),
        ("torch-model-archiver -f", "-m flambeau.torchserve.archiver -f"),
        ("torch-workflow-archiver -f", "-m flambeau.torchserve.workflow_archiver -f"),
    ],
)
def test_each_command_of_the_image_runs_ours(path: str, command: str, runs: str) -> None:
    done = subprocess.run(
        ["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{runs}\n"


def test_the_image_s_configuration_is_understood_to_the_last_key() -> None:
    file = ROOT / "deploy" / "torchserve" / "config.properties"
    values = java_properties.parse(file.read_text())
    settings = settings_of(Properties(values=values, file=file, from_snapshot=False))
    assert settings.notices == ()
    assert settings.serve.model_store == Path("/home/model-server/model-store")
    assert str(settings.serve.inference_address) == "0.0.0.0:8080"
