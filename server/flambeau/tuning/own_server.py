"""A server of our own to tune a model in: unused ports, its own model store, no other models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote, urlsplit

import httpx

from flambeau.client import ManagementClient, ServerRefused
from flambeau.errors import TuningError

_PROGRAM: Final = "import sys; from flambeau.cli import main; sys.exit(main())"
_STARTED: Final = "Model server started."
_STOP_TIMEOUT_S: Final = 10.0
_ANSWER_TIMEOUT_S: Final = 60.0
_JOB_QUEUE_SIZE: Final = 10_000  # the objective is to limit the queue, not the other way round
_SHOWN_LINES: Final = 20


class OwnServer:
    """A server that runs; `own_server` makes one.

    Attributes:
        address: Host and port where predictions are answered.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], urls: dict[str, str], management: ManagementClient
    ) -> None:
        # for the life of the process
        self._process = process
        self._management = management
        self._inference_url = urls["inference"]
        parts = urlsplit(self._inference_url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 0)

    def register(self, name: str, *, model: str) -> None:
        """Serve an entry of the store as its YAML says; returns when its workers are ready.

        Raises:
            ServerRefused: It cannot be served; the message says why.
        """
        self._management.call("POST", "/models", url=name, model_name=model)

    def unregister(self, model: str) -> None:
        """Remove a model, if it is there."""
        with suppress(ServerRefused):
            self._management.call("DELETE", _path(model))

    def memory_bytes(self, model: str) -> int:
        """What the workers of a model take in memory, pages they share counted for each."""
        (version,) = self._management.call("GET", _path(model))
        workers: list[dict[str, Any]] = version["workers"]
        return sum(worker["memoryUsage"] for worker in workers)

    def predict(self, model: str, body: bytes, content_type: str) -> httpx.Response:
        """Ask for one prediction.

        Raises:
            TuningError: There is no answer.
        """
        try:
            return httpx.post(
                f"{self._inference_url}/predictions/{quote(model, safe='')}",
                content=body,
                headers={"content-type": content_type},
                timeout=_ANSWER_TIMEOUT_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise TuningError(f"no answer from the server that tunes: {error}") from error


@contextmanager
def own_server(store: Path, directory: Path, *, max_request_bytes: int) -> Generator[OwnServer]:
    """A server inside the block, ended after it.

    Args:
        store: Its model store.
        directory: For its log and what it unpacks; whoever owns it removes it.
        max_request_bytes: The largest body that it takes.

    Raises:
        TuningError: It does not start; its last lines are in the message.
    """
    command = [sys.executable, "-c", _PROGRAM, "serve", "--model-store", str(store)]
    for audience in ("inference", "management"):
        command += [f"--{audience}-address", "127.0.0.1:0"]
    command += ["--no-metrics-api", "--no-grpc", "--no-system-metrics", "--no-access-log"]
    command += ["--state-file", "", "--no-supervisor"]
    command += ["--job-queue-size", str(_JOB_QUEUE_SIZE)]
    command += ["--max-request-bytes", str(max_request_bytes)]
    command += ["--drain-timeout-s", "0"]  # nobody waits for the answers
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLAMBEAU_")}
    scratch = directory / "scratch"  # so that nothing is left behind even if it is killed
    scratch.mkdir()
    log = directory / "server.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=store,
            env={**environment, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for us
        )
    assert process.stdout is not None
    try:
        urls = _addresses(process.stdout)
        if urls is None:
            raise TuningError(
                f"`flambeau serve` ended with exit code {process.wait()}; its last lines:\n"
                + last_lines(log)
            )
        with ManagementClient(urls["management"]) as management:
            yield OwnServer(process, urls, management)
    finally:
        _stop(process)


def last_lines(log: Path) -> str:
    """The end of a server's log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:])


def _addresses(stdout: IO[bytes]) -> dict[str, str] | None:
    """Where it listens, once it does; None when it ends before."""
    urls: dict[str, str] = {}
    for raw in stdout:
        line = raw.decode(errors="replace").strip()
        if line == _STARTED:
            return urls
        audience, separator, url = line.partition(" at ")
        if separator:
            urls[audience] = url
    return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    process.kill()  # nothing when it has ended; its workers end with it
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _path(model: str) -> str:
    return f"/models/{quote(model, safe='')}"
