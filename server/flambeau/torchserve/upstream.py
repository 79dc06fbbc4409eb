"""Starting and ending a server that reads TorchServe's configuration: TorchServe's own, or ours.

    with running_upstream(Launch(store=store, models=("m=m.mar",))) as server:
        httpx.get(server.urls[Port.INFERENCE] + "/ping")

Each gets free ports, a generated config.properties and directories of its own for temporary files,
logs and keys, and is the leader of its process group: leaving the block ends the whole group, so
no worker outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import httpx

from flambeau.errors import FlambeauError
from flambeau.torchserve.launch import Launch, Port, environment_of, free_ports, properties_text
from flambeau.torchserve.upstream_environment import (
    UpstreamEnvironment,
    find_environment,
    make_environment,
)

READY_LINE: Final = "Model server started."
START_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 30.0
_KEPT_LINES: Final = 400
_KEY_FILE: Final = "key_file.json"


class UpstreamError(FlambeauError):
    """A server that was started for comparison did not start, or did not do what it must."""


class ConsoleLines:
    """What a process prints, kept while it runs."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def wait_ready(self, *, timeout_s: float) -> bool:
        """Wait for the line that says that the server has started."""
        return self._ready.wait(timeout_s)

    def tail(self) -> str:
        """The last lines, without those that our own questions about models cause."""
        noise = ("GET /models", "TS_METRICS")
        lines = [line for line in list(self._lines) if not any(word in line for word in noise)]
        return "\n".join(lines[-60:])

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\n")
                self._lines.append(line)
                if READY_LINE in line:
                    self._ready.set()


class RunningServer:
    """A server that was started here."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        directory: Path,
        urls: Mapping[Port, str],
        launch: Launch,
    ) -> None:
        # for the life of the process
        self.process = process
        self.directory = directory
        self.urls = urls
        self._own_group = launch.own_group
        assert process.stdout is not None
        self.console = ConsoleLines(process.stdout)

    def keys(self) -> dict[str, str]:
        """The tokens it wrote at its start: `management`, `inference` and `API`."""
        text = (self.directory / _KEY_FILE).read_text(encoding="utf-8")
        return {str(name): str(entry["key"]) for name, entry in json.loads(text).items()}

    def wait_started(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until its listeners answer.

        Raises:
            UpstreamError: It ended, or they did not in time.
        """
        deadline_at = time.monotonic() + timeout_s
        while not self.console.wait_ready(timeout_s=0.1):
            if self.process.poll() is not None:
                raise UpstreamError(
                    f"the server ended with exit code {self.process.returncode} before it "
                    f"started; its last lines:\n{self.console.tail()}"
                )
            if time.monotonic() > deadline_at:
                raise UpstreamError(
                    f"the server did not start in {timeout_s:g} s; its last lines:\n"
                    + self.console.tail()
                )

    def wait_models_ready(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every registered version has the workers that it should have.

        Raises:
            UpstreamError: Some did not get them in time.
        """
        deadline_at = time.monotonic() + timeout_s
        while waiting := self._models_waiting():
            if self.process.poll() is not None or time.monotonic() > deadline_at:
                raise UpstreamError(
                    f"models {waiting} are not ready; the server's last lines:\n"
                    + self.console.tail()
                )
            time.sleep(0.25)

    def stop(self) -> None:
        """End it: ask first, then kill all that is left of it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
        if self._own_group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def _models_waiting(self) -> list[str]:
        headers = {}
        if (self.directory / _KEY_FILE).is_file():
            headers["Authorization"] = f"Bearer {self.keys()['management']}"
        with httpx.Client(base_url=self.urls[Port.MANAGEMENT], headers=headers) as client:
            names = [entry["modelName"] for entry in client.get("/models").json()["models"]]
            versions = [version for name in names for version in _versions(client, name)]
        return [
            version["modelName"]
            for version in versions
            if sum(worker["status"] == "READY" for worker in version["workers"])
            < version["minWorkers"]
        ]


def _versions(client: httpx.Client, name: str) -> list[dict[str, Any]]:
    answer = client.get(f"/models/{name}/all")
    if answer.status_code == 404:  # as TorchServe says on a combined port
        answer = client.get(f"/models/{name}")
    answer.raise_for_status()
    return list(answer.json())


@contextmanager
def running_upstream(
    launch: Launch, *, environment: UpstreamEnvironment | None = None
) -> Generator[RunningServer]:
    """The original TorchServe, started and ended; made first when there is none."""
    environment = environment or find_environment() or make_environment()
    with _own_directory(launch.scratch) as directory:
        command = environment.server_command(temp=directory / "tmp")
        command += ["-f", str(directory / "config.properties"), "-s", str(launch.store)]
        command += [] if launch.snapshots else ["-ncs"]
        with _running(command, launch, directory) as server:
            yield server


@contextmanager
def running_flambeau(launch: Launch) -> Generator[RunningServer]:
    """Our server on the same configuration, started and ended."""
    with _own_directory(launch.scratch) as directory:
        command = [sys.executable, "-m", "flambeau.torchserve", "--start", "--foreground"]
        command += ["--ts-config", str(directory / "config.properties")]
        command += ["--model-store", str(launch.store)]
        command += [] if launch.snapshots else ["--ncs"]
        with _running(command, launch, directory) as server:
            yield server


@contextmanager
def _own_directory(parent: Path | None) -> Generator[Path]:
    directory = Path(
        tempfile.mkdtemp(prefix="ts-", dir=parent)
    )  # short: sockets in it allow 107 characters
    try:
        (directory / "tmp").mkdir()
        (directory / "logs").mkdir()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _running(command: Sequence[str], launch: Launch, directory: Path) -> Generator[RunningServer]:
    ports = free_ports(5)
    (directory / "config.properties").write_text(
        properties_text(launch, ports=ports, directory=directory), encoding="utf-8"
    )
    for name, text in launch.files.items():
        (directory / name).write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment_of(launch, directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=launch.own_group,
    )
    numbers = [ports[0], ports[0] if launch.combined_port else ports[1], ports[2]]
    urls = {port: f"http://127.0.0.1:{number}" for port, number in zip(Port, numbers, strict=True)}
    with ExitStack() as stack:
        server = RunningServer(process, directory=directory, urls=urls, launch=launch)
        stack.callback(server.stop)
        server.wait_started()
        yield server
