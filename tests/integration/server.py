"""The real server in a process of its own: started, spoken to over sockets, and ended.

    with running_server(store, models=["echo=echo-1.0.mar"]) as server:
        server.predict("echo", json={"a": 1})

Leaving the block stops it and checks what every test relies on: exit code 0, no process left
behind, and nothing on stderr but JSON records.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import httpx
import psutil

from flambeau.template import FLAG as TEMPLATE_FLAG

T = TypeVar("T")
JSON: TypeAlias = dict[str, Any]

FLAMBEAU = str(Path(sys.executable).with_name("flambeau"))
PATIENCE_S = 60.0  # for what takes seconds when the machine is busy; nothing waits that long
_MARK = "SERVER_OF_A_TEST"  # in the environment of the server and of all it starts
_NUM_CLIENT_THREADS = 32


class Lines:
    """What a process prints on one stream, as it comes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def so_far(self) -> list[str]:
        with self._changed:
            return list(self._lines)

    def wait(self, wanted: Callable[[str], bool], *, timeout_s: float = PATIENCE_S) -> str:
        """The first line that is wanted; TimeoutError when none comes in time."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = [line for line in self._lines if wanted(line)][:1]
            return bool(found) or not self._thread.is_alive()

        with self._changed:
            self._changed.wait_for(is_there, timeout_s)
        if not found:
            raise TimeoutError("the line did not come; there are:\n" + "\n".join(self.so_far()))
        return found[0]

    def wait_closed(self) -> list[str]:
        """All lines, once the process has closed the stream."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the stream is still open"
        return self.so_far()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                with self._changed:
                    self._lines.append(line.decode().rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


class Server:
    """A running server; `running_server` makes one."""

    def __init__(self, process: subprocess.Popen[bytes], store: Path, *, mark: str) -> None:
        # for the life of the process
        self.process = process
        self.store = store
        self.expected_exit_code = 0
        self._mark = mark
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdout = Lines(process.stdout)
        self.stderr = Lines(process.stderr)
        self._threads = ThreadPoolExecutor(_NUM_CLIENT_THREADS)
        # from the moment it accepts connections
        self._clients: dict[str, httpx.Client] = {}

    # speaking to it

    @property
    def inference(self) -> httpx.Client:
        return self._clients["inference"]

    @property
    def management(self) -> httpx.Client:
        return self._clients["management"]

    @property
    def metrics(self) -> httpx.Client:
        return self._clients["metrics"]

    def predict(
        self, model: str, *, json: object = None, version: str | None = None
    ) -> httpx.Response:
        """Post one prediction and wait for its answer."""
        path = f"/predictions/{model}" + (f"/{version}" if version else "")
        return self.inference.post(path, json=json)

    def predict_soon(
        self, model: str, *, json: object, version: str | None = None
    ) -> Future[httpx.Response]:
        """Post one prediction from another thread."""
        return self._threads.submit(self.predict, model, json=json, version=version)

    def grpc_target(self, listener: str) -> str:
        """Where `grpc_inference` or `grpc_management` listens, HOST:PORT."""
        record = self.wait_record(lambda r: r.get("listener") == listener and "address" in r)
        return str(record["address"])

    def in_thread(self, work: Callable[[], T]) -> Future[T]:
        """Do some work beside the test."""
        return self._threads.submit(work)

    def describe(self, model: str, version: str | None = None) -> JSON:
        """One version as the management listener shows it; the default one without a version."""
        path = f"/models/{model}" + (f"/{version}" if version else "")
        response = self.management.get(path)
        assert response.status_code == 200, response.text
        (document,) = response.json()
        return dict(document)

    def pids(self, model: str, version: str | None = None) -> list[int]:
        """The processes of a version's workers that are ready."""
        workers = self.describe(model, version)["workers"]
        return [worker["pid"] for worker in workers if worker["status"] == "READY"]

    def register(self, archive: Path, **parameters: str | int) -> httpx.Response:
        """Register an archive of the store with one worker, unless the parameters say otherwise."""
        query = {"url": archive.name, "initial_workers": 1, **parameters}
        return self.management.post("/models", params=query)

    def deploy(self, model: str, archive: Path, **parameters: str | int) -> list[JSON]:
        """Deploy an archive of the store; returns all events."""
        response = self.management.post(
            f"/models/{model}/deploy", params={"url": archive.name, **parameters}
        )
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def samples(self, name: str) -> dict[str, float]:
        """A metric's samples: value by label text, e.g. `model="m",version="1.0"`."""
        text = self.metrics.get("/metrics", params={"name[]": name}).text
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {key.removeprefix(name).strip("{}"): float(value) for key, _, value in pairs}

    # what it says and what it leaves

    def records(self) -> list[JSON]:
        """Its log so far, one record per line of stderr."""
        return [json.loads(line) for line in self.stderr.so_far()]

    def wait_record(self, wanted: Callable[[JSON], bool]) -> JSON:
        """The first log record that is wanted."""
        return dict(json.loads(self.stderr.wait(lambda line: wanted(json.loads(line)))))

    def processes(self) -> list[psutil.Process]:
        """All that runs because of this server: supervisor, front, templates, workers, theirs."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def workers(self) -> list[psutil.Process]:
        """Its workers and what they started."""
        return [
            process
            for process in self.processes()
            if not (_is_server(process) or is_template(process))
        ]

    def front(self) -> psutil.Process:
        """The process that serves, below the supervisor."""
        (front,) = filter(_is_server, psutil.Process(self.process.pid).children())
        return front

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            zombie = process.status() == psutil.STATUS_ZOMBIE  # has ended, awaits its parent
            return not zombie and process.environ().get(_MARK) == self._mark
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    # its start and end

    def wait_listening(self, certificate: Path | None = None) -> None:
        """Wait until it has said where it listens, and connect to all of it but Unix sockets."""
        trusted: ssl.SSLContext | bool = False
        if certificate is not None:
            trusted = ssl.create_default_context(cafile=certificate)
        self.stdout.wait(lambda line: line == "Model server started.")
        for line in self.stdout.so_far():
            audience, separator, url = line.partition(" at ")
            if separator and url.startswith("http"):
                self._clients[audience] = httpx.Client(
                    base_url=url, timeout=PATIENCE_S, verify=trusted
                )

    def wait_ready(self) -> None:
        """Wait until every model it should serve answers."""
        wait_until(
            lambda: self.management.get("/readyz").status_code == 200 or self._has_failed(),
            what="the server is ready",
        )
        assert self.management.get("/readyz").status_code == 200, self.stderr.so_far()

    def _has_failed(self) -> bool:
        reasons = self.management.get("/readyz").json().get("reasons", [])
        return any("is not served" in reason or "failed" in reason for reason in reasons)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal; `wait_ended` waits for what comes of it."""
        self.process.send_signal(number)

    def wait_ended(self) -> int:
        """Wait until the process has ended; returns its exit code."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End what is still there, on both sides; never raises for what it finds."""
        for process in self.processes():
            process.kill()
        self.process.wait(PATIENCE_S)
        self._threads.shutdown()
        for client in self._clients.values():
            client.close()
        self.stdout.wait_closed()
        self.stderr.wait_closed()


def is_template(process: psutil.Process) -> bool:
    """Whether workers are forked from it."""
    return TEMPLATE_FLAG in _command_line(process)


def _is_server(process: psutil.Process) -> bool:
    """Whether it is the front, or its supervisor."""
    return "serve" in _command_line(process)[:3]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@contextmanager
def running_server(
    store: Path,
    *flags: str,
    models: Sequence[str] = (),
    ready: bool = True,
    certificate: Path | None = None,
) -> Generator[Server]:
    """A server on ports the kernel chooses; stopped and checked at the end of the block.

    Args:
        store: Its model store.
        flags: More of `flambeau serve`'s.
        models: What to serve from the start, `NAME=ARCHIVE` or `ARCHIVE`.
        ready: Wait until it is ready.
        certificate: What its clients trust when it speaks TLS; None for anything.
    """
    mark = uuid.uuid4().hex
    with ExitStack() as stack:
        server = Server(_start(store, flags, models, mark=mark), store, mark=mark)
        stack.callback(server.close)
        try:
            server.wait_listening(certificate)
            if ready:
                server.wait_ready()
            yield server
        except BaseException:
            print("the server's log:", *server.stderr.so_far(), sep="\n")
            raise
        if server.process.poll() is None:
            server.stop()
        code = server.wait_ended()
        assert code == server.expected_exit_code, server.stderr.wait_closed()
        wait_until(lambda: not server.processes(), what="no process is left", timeout_s=2)
        for line in server.stderr.wait_closed():
            assert line.startswith("{"), server.stderr.so_far()
            assert {"time", "level", "message"} <= json.loads(line).keys(), line


def _start(
    store: Path, flags: Sequence[str], models: Sequence[str], *, mark: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*serve_command(store, *flags), *(["--models", *models] if models else [])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment() | {_MARK: mark},
    )


def serve_command(store: Path, *flags: str) -> list[str]:
    """The command line of a server that takes free ports where the flags name none.

    It remembers nothing unless the flags name a state file.
    """
    command = [FLAMBEAU, "serve", "--model-store", str(store), *flags]
    if "--state-file" not in flags:
        command += ["--state-file", ""]
    for audience in ("inference", "management", "metrics", "grpc-inference", "grpc-management"):
        if f"--{audience}-address" not in flags:
            command += [f"--{audience}-address", "127.0.0.1:0"]
    return command


def free_port() -> int:
    """A port that nobody uses now; what needs to know it beforehand takes it at once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of the server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("FLAMBEAU_")}


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float = PATIENCE_S) -> None:
    """Look again and again until the condition holds; TimeoutError when it never does."""
    deadline_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_at:
            raise TimeoutError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(0.01)
