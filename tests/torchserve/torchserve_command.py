"""The real command in processes of its own, on free ports and in directories of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.integration.server import PATIENCE_S, Lines, wait_until

COMMAND = (sys.executable, "-m", "flambeau.torchserve")
READY = "Model server started."
FREE_PORTS = {
    "inference_address": "http://127.0.0.1:0",
    "management_address": "http://127.0.0.1:0",
    "metrics_address": "http://127.0.0.1:0",
    "grpc_inference_port": "0",
    "grpc_management_port": "0",
    "disable_system_metrics": "true",
    "disable_token_authorization": "true",
}


class Home:
    """A directory that commands run in, with a model store, and a place for temporary files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.temporary = directory / "tmp"
        self.store.mkdir()
        self.temporary.mkdir()

    @property
    def pid_file(self) -> Path:
        return self.temporary / ".model_server.pid"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    def configure(self, **properties: str) -> None:
        """Write `config.properties`: free ports, and what else is given."""
        lines = [f"{key}={value}\n" for key, value in (FREE_PORTS | properties).items()]
        (self.directory / "config.properties").write_text("".join(lines))

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """This process's, without what would configure the command."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("TS_", "FLAMBEAU_", "LOG_", "METRICS_"))
        }
        places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.temporary))
        return kept | places | dict(more)

    def run(self, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; its output must not be a server's to keep open."""
        return subprocess.run(
            [*COMMAND, *flags],
            cwd=self.directory,
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


class Started:
    """A server that a command has started, and what it prints."""

    def __init__(self, process: subprocess.Popen[bytes], home: Home) -> None:
        assert process.stdout is not None
        self.process = process
        self.home = home
        self.lines = Lines(process.stdout)

    @property
    def pid(self) -> int:
        return int(self.home.pid_file.read_text())

    def url(self, audience: str) -> str:
        """Where a listener is, e.g. `Inference`."""
        mark = f"{audience} address: "
        return self.lines.wait(lambda line: mark in line).partition(mark)[2]

    def client(self, audience: str) -> httpx.Client:
        return httpx.Client(base_url=self.url(audience), timeout=PATIENCE_S, trust_env=False)


@contextmanager
def started(home: Home, *flags: str, **environment: str) -> Generator[Started]:
    """Start a server, wait until it is ready, and see that it has ended after the block."""
    process = subprocess.Popen(
        [*COMMAND, "--start", "--model-store", str(home.store), *flags],
        cwd=home.directory,
        env=home.environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    server = Started(process, home)
    try:
        server.lines.wait(lambda line: line == READY)
        pid = server.pid
        yield server
        home.run("--stop")
        wait_until(lambda: not psutil.pid_exists(pid) or is_zombie(pid), what="it has ended")
        process.wait(PATIENCE_S)
        server.lines.wait_closed()
    except BaseException:
        print("the server printed:", *server.lines.so_far(), sep="\n")
        kill_if_there(home)
        process.kill()
        process.wait(PATIENCE_S)
        server.lines.wait_closed()
        raise


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_if_there(home: Home) -> None:
    """End the server of a test that has failed, by its own file."""
    if home.pid_file.exists():
        try:
            psutil.Process(int(home.pid_file.read_text())).kill()
        except (psutil.NoSuchProcess, ValueError):
            return
