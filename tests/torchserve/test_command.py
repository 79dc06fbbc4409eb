from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.torchserve.torchserve_command import READY, Home, Started, is_zombie, started

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Started]:
    """A server in the background, without models, that asks for tokens."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.configure(disable_token_authorization="false", cors_allowed_origin="*", vmargs="-Xmx1g")
    with started(home, "--ncs", "--plugins-path", "plugins") as server:
        yield server


def test_the_version_is_torchserve_s(home: Home) -> None:
    done = home.run("--version")
    assert (done.returncode, done.stdout) == (0, "TorchServe Version is 0.12.0\n")


def test_two_actions_at_once_are_a_usage_error(home: Home) -> None:
    assert home.run("--start", "--stop").returncode == 2


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "Missing mandatory parameter --model-store"),
        (["--model-store", "gone"], "--model-store directory not found: gone"),
        (
            ["--model-store", "store", "--workflow-store", "gone"],
            "--workflow-store directory not found: gone",
        ),
        (["--ts-config", "gone.properties"], "--ts-config file not found: gone.properties"),
        (["--log-config", "gone.xml"], "--log-config file not found: {here}/gone.xml"),
    ],
)
def test_what_is_missing_is_named_and_ends_the_start_with_1(
    home: Home, flags: list[str], text: str
) -> None:
    done = home.run("--start", *flags)
    assert (done.returncode, done.stdout) == (1, text.format(here=home.directory) + "\n")
    assert not home.pid_file.exists()


def test_a_wrong_setting_ends_the_start_before_anything_runs(home: Home) -> None:
    home.configure(job_queue_size="many")
    done = home.run("--model-store", "store")
    assert done.returncode == 1
    assert done.stdout == ("Invalid configuration: job_queue_size is 'many'; give a whole number\n")
    assert not home.pid_file.exists()


def test_a_variable_that_is_not_set_is_an_invalid_configuration(home: Home) -> None:
    home.configure(model_store="$$NOT_SET_ANYWHERE$$")
    done = home.run("--start")
    assert done.returncode == 1
    assert "Invalid configuration: model_store names" in done.stdout


def test_a_temporary_directory_that_is_not_there_is_named(home: Home) -> None:
    done = home.run("--model-store", "store", TEMP="/gone")
    assert (done.returncode, done.stdout) == (
        1,
        "Invalid temp directory: /gone, please check TEMP environment variable.\n",
    )


def test_there_is_nothing_to_stop_when_nothing_runs(home: Home) -> None:
    done = home.run("--stop")
    assert (done.returncode, done.stdout) == (0, "TorchServe is not currently running.\n")


@pytest.mark.parametrize("content", ["", "no number", "0", "-1", "99999999"])
def test_a_stale_pid_file_is_removed(home: Home, content: str) -> None:
    home.pid_file.write_text(content)
    done = home.run("--stop")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "Removing orphan pid file.",
        "TorchServe is not currently running.",
    ]
    assert not home.pid_file.exists()


def test_a_pid_file_that_cannot_be_used_is_named(home: Home) -> None:
    home.pid_file.mkdir()  # as unusable as another user's, for root too
    for flags in (["--stop"], ["--start", "--model-store", "store"]):
        done = home.run(*flags)
        assert done.returncode == 1
        assert f"{home.pid_file} cannot be used" in done.stdout
        assert "set TEMP" in done.stdout


def test_a_process_that_is_no_server_is_not_stopped(home: Home) -> None:
    program = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as other:
        home.pid_file.write_text(str(other.pid))
        done = home.run("--stop")
        assert "TorchServe is not currently running." in done.stdout
        assert other.poll() is None
        other.communicate()
        assert other.returncode == 0


def test_the_command_returns_while_the_server_stays_and_keeps_its_stdout(
    running: Started,
) -> None:
    assert running.process.wait() == 0
    assert psutil.Process(running.pid).is_running()
    assert running.pid != running.process.pid
    assert os.getsid(running.pid) == running.pid
    assert READY in running.lines.so_far()


def test_a_second_start_is_refused(running: Started) -> None:
    done = running.home.run("--start", "--model-store", "store")
    assert (done.returncode, done.stdout) == (
        1,
        "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n",
    )


def test_what_changes_nothing_is_named_in_the_log_once(running: Started) -> None:
    for key in ("vmargs", "plugins_path"):
        lines = [line for line in running.lines.so_far() if f"{key} is accepted" in line]
        assert len(lines) == 1, lines
        assert "[WARN ]" in lines[0]


def test_tokens_are_asked_for_and_cors_headers_are_on_every_answer(running: Started) -> None:
    with running.client("Inference") as client:
        refused = client.post("/predictions/none")
    assert refused.status_code == 400
    assert refused.json()["type"] == "InvalidKeyException"
    assert refused.headers["access-control-allow-origin"] == "*"
    assert (running.home.directory / "key_file.json").exists()


def test_models_cannot_be_registered_unless_that_is_switched_on(running: Started) -> None:
    with running.client("Management") as client:
        assert client.post("/models", params={"url": "a.mar"}).status_code in {400, 405}


def test_stop_ends_the_server_and_removes_what_it_wrote(home: Home) -> None:
    home.configure(disable_token_authorization="false")
    with started(home, "--ncs") as server:
        pid = server.pid
        done = home.run("--stop")
        assert (done.returncode, done.stdout) == (0, "TorchServe has stopped.\n")
        assert not psutil.pid_exists(pid) or is_zombie(pid)
        assert not home.pid_file.exists()
        assert not (home.directory / "key_file.json").exists()


def test_in_the_foreground_the_command_is_the_server(home: Home) -> None:
    home.configure()
    with started(home, "--foreground", "--ncs") as server:
        assert server.pid == server.process.pid
        with server.client("Inference") as client:
            assert client.get("/ping").json() == {"status": "Healthy"}
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert not home.pid_file.exists()


def test_an_address_in_use_ends_the_server_with_1_and_is_named(
    home: Home, running: Started
) -> None:
    home.configure(inference_address=str(httpx.URL(running.url("Inference"))))
    done = home.run("--foreground", "--model-store", "store")
    assert done.returncode == 1
    assert "Invalid configuration: inference_address 127.0.0.1:" in done.stdout
    assert "cannot be bound" in done.stdout
    assert not home.pid_file.exists()
