"""A Flambeau server as users run it: one command, one process, three ports.

Everything here goes through the command line and HTTP, so that what is measured or tested is what
is shipped.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

FLAMBEAU = Path(sys.executable).parent / "flambeau"  # beside the interpreter, as pip puts it
POLL_S = 0.05


class ServerProcessError(RuntimeError):
    """The server ended, did not become ready, or did not stop cleanly; its log follows."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """HOST:PORT of each listener."""

    inference: str
    management: str
    metrics: str
    grpc_inference: str
    grpc_management: str

    @classmethod
    def unused(cls) -> Addresses:
        """Ports of 127.0.0.1 that nothing listens on at the moment."""
        with ExitStack() as open_together:  # else the same port may be given twice
            sockets = [open_together.enter_context(socket.socket()) for _ in fields(cls)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
        return cls(*hosts)

    def as_environment(self) -> dict[str, str]:
        """The settings, for the server and for the commands that call it."""
        return {
            "FLAMBEAU_INFERENCE_ADDRESS": self.inference,
            "FLAMBEAU_MANAGEMENT_ADDRESS": self.management,
            "FLAMBEAU_METRICS_ADDRESS": self.metrics,
            "FLAMBEAU_MANAGEMENT_URL": f"http://{self.management}",
            "FLAMBEAU_GRPC_INFERENCE_ADDRESS": self.grpc_inference,
            "FLAMBEAU_GRPC_MANAGEMENT_ADDRESS": self.grpc_management,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that was ready; `addresses` tells where."""

    addresses: Addresses
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def inference_url(self) -> str:
        return f"http://{self.addresses.inference}"

    @property
    def management_url(self) -> str:
        return f"http://{self.addresses.management}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.addresses.metrics}"

    def register(
        self, archive: str, *, num_workers: int, batch_size: int, name: str | None = None
    ) -> None:
        """Serve an archive of the store; returns when its workers are ready.

        Args:
            archive: Its file's name.
            num_workers: May be 0.
            batch_size: Most requests per handler call.
            name: What to call the model; the archive's own name when it is None.

        Raises:
            ServerProcessError: It was refused.
        """
        query: dict[str, str | int] = {
            "url": archive,
            "initial_workers": num_workers,
            "batch_size": batch_size,
        }
        if name is not None:
            query["model_name"] = name
        url = f"{self.management_url}/models"
        answer = httpx.post(url, params=query, timeout=120, trust_env=False)
        if answer.status_code != 200:
            raise ServerProcessError(f"{archive} is not served: {answer.text}\n{self.log_tail()}")

    def scale(self, model: str, *, num_workers: int) -> None:
        """Give a model so many workers; returns when they are ready.

        Raises:
            ServerProcessError: It was refused.
        """
        query: dict[str, str | int] = {
            "min_worker": num_workers,
            "max_worker": num_workers,
            "synchronous": "true",
        }
        url = f"{self.management_url}/models/{model}"
        answer = httpx.put(url, params=query, timeout=120, trust_env=False)
        if answer.status_code != 200:
            raise ServerProcessError(f"{model} is not scaled: {answer.text}\n{self.log_tail()}")

    def worker_pids(self, model: str) -> list[int]:
        """The processes that answer for the default version of a model."""
        answer = httpx.get(f"{self.management_url}/models/{model}", timeout=30, trust_env=False)
        return [worker["pid"] for worker in answer.raise_for_status().json()[0]["workers"]]

    def log_tail(self) -> str:
        """The last lines the server wrote."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-40:])


@contextmanager
def serve(
    *arguments: str,
    cwd: Path,
    addresses: Addresses | None = None,
    program: Path = FLAMBEAU,
    environment: Mapping[str, str] | None = None,
    ready_timeout_s: float = 90.0,
    stop_timeout_s: float = 30.0,
) -> Generator[Server]:
    """Run `flambeau serve` with these arguments, ready inside the block, stopped after it.

    Args:
        arguments: What follows `flambeau serve`.
        cwd: Its working directory; `server.log` is written there.
        addresses: Where to listen; unused ports when None.
        program: The `flambeau` to run.
        environment: Replaces this process's environment when given.
        ready_timeout_s: From start until `/readyz` answers 200.
        stop_timeout_s: From SIGTERM until the process has ended.

    Raises:
        ServerProcessError: It ended early, was not ready in time, or did not stop cleanly.
    """
    addresses = addresses or Addresses.unused()
    log_path = cwd / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(program), "serve", *arguments],
            cwd=cwd,
            # one measurement must not begin with what the last one has left
            env={"FLAMBEAU_STATE_FILE": "", **(os.environ if environment is None else environment)}
            | addresses.as_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(addresses=addresses, process=process, log_path=log_path)
    try:
        _wait_ready(server, timeout_s=ready_timeout_s)
        yield server
        _stop(server, timeout_s=stop_timeout_s)
    finally:
        process.kill()  # nothing when it has ended
        process.wait()


def _wait_ready(server: Server, *, timeout_s: float) -> None:
    give_up_at = time.monotonic() + timeout_s
    with httpx.Client(base_url=server.inference_url, timeout=5.0, trust_env=False) as client:
        while time.monotonic() < give_up_at:
            try:
                if client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            if _ended(server, within_s=POLL_S):
                raise ServerProcessError(
                    f"flambeau serve ended with {server.process.returncode}:\n{server.log_tail()}"
                )
    raise ServerProcessError(f"not ready after {timeout_s} s:\n{server.log_tail()}")


def _stop(server: Server, *, timeout_s: float) -> None:
    server.process.send_signal(signal.SIGTERM)
    if not _ended(server, within_s=timeout_s):
        raise ServerProcessError(f"still running {timeout_s} s after SIGTERM:\n{server.log_tail()}")
    if server.process.returncode not in {0, -signal.SIGTERM}:
        raise ServerProcessError(
            f"exit status {server.process.returncode} after SIGTERM:\n{server.log_tail()}"
        )


def _ended(server: Server, *, within_s: float) -> bool:
    try:
        server.process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True
