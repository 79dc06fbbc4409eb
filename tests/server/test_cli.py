from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import flambeau
from flambeau.cli import main
from flambeau.config import ServeConfig
from flambeau.testing import make_archive

NOWHERE = "http://127.0.0.1:1"  # nothing listens on the first port


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == f"flambeau {flambeau.__version__}"


def test_every_setting_is_a_flag_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    for spec in dataclasses.fields(ServeConfig):
        assert "--" + spec.name.replace("_", "-") in text
        assert spec.metadata["help"].split()[0] in text


@pytest.mark.slow
def test_help_needs_neither_torch_nor_fastapi() -> None:
    script = (
        "import sys; from flambeau.cli import main\n"
        "try: main(['models', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'fastapi', 'uvicorn') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_wrong_setting_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--job-queue-size", "0"]) == 2
    error = capsys.readouterr().err
    assert error == "flambeau: job_queue_size is 0; use 1 or more\n"


@pytest.mark.slow
def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--inference-address", address, "--model-store", str(tmp_path)]
        assert main(["serve", *flags]) == 2
    assert f"inference_address {address} cannot be bound" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["describe", "m"],
        ["deploy", "m", "m-1.0.mar"],
        ["register", "m", "m-1.0.mar"],
        ["scale", "m", "--workers", "2"],
        ["set-default", "m", "1.0"],
        ["unregister", "m"],
    ],
    ids=lambda command: command[0],
)
def test_a_server_that_is_not_there_is_named_with_the_next_step(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main(["models", "--management-url", NOWHERE, *command]) == 2
    error = capsys.readouterr().err
    assert NOWHERE in error
    assert "flambeau serve" in error


def test_a_file_outside_the_store_is_copied_into_it_before_it_is_deployed(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, name="m", handler="def handle(data, context): return data")
    store = tmp_path / "store"
    flags = ["deploy", "m", str(archive), "--model-store", str(store)]
    assert main(["models", "--management-url", NOWHERE, *flags]) == 2
    assert (store / "m-1.0.mar").read_bytes() == archive.read_bytes()
