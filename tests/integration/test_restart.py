"""Servers that crash, are killed or cannot write: what they serve afterwards, and to whom."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.archives import service
from tests.integration.server import (
    JSON,
    Server,
    clean_environment,
    running_server,
    serve_command,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of echo 1.0 to 3.0 and of held."""
    store = tmp_path_factory.mktemp("store")
    for version in ("1.0", "2.0", "3.0"):
        service(store, "echo", version=version)
    service(store, "held")
    return store


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves echo 1.0 and held from its start, and remembers."""
    state = tmp_path_factory.mktemp("state") / "state.db"
    models = ["echo-1.0.mar", "held-1.0.mar"]
    with running_server(store, "--state-file", str(state), models=models) as running:
        yield running


def served(server: Server) -> dict[str, list[tuple[str, int, bool]]]:
    """By model: each version, its workers, and whether it is the default."""
    models = server.management.get("/models").json()["models"]
    found: dict[str, list[tuple[str, int, bool]]] = {}
    for name in (entry["modelName"] for entry in models):
        default = server.describe(name)["modelVersion"]
        versions: list[JSON] = server.management.get(f"/models/{name}/all").json()
        found[name] = sorted(
            (v["modelVersion"], v["minWorkers"], v["modelVersion"] == default) for v in versions
        )
    return found


def reconnect(server: Server) -> None:
    """Drop connections that the process which was killed had."""
    for client in server._clients.values():
        client._transport.close()
        client._transport = httpx.HTTPTransport()


def fronts(server: Server) -> list[psutil.Process]:
    """The process that serves; none while there is to be another one, or when all is over."""
    try:
        children = psutil.Process(server.process.pid).children()
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def wait_another(server: Server, front: psutil.Process) -> None:
    """Wait until a killed front has been replaced."""

    def is_another() -> bool:
        return any(each.pid != front.pid for each in fronts(server))

    wait_until(is_another, what="another front")


class Traffic:
    """One client that connects for each request; what became of them."""

    def __init__(self, server: Server) -> None:
        url = server.inference.base_url
        self._address = (url.host, url.port or 0)
        self._stopped = threading.Event()
        self.outcomes: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.outcomes.append(self._ask())

    def _ask(self) -> str:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        try:
            connection.request("POST", "/predictions/echo", body=b"{}")
            with connection.getresponse() as response:
                response.read()
                return str(response.status)
        except ConnectionRefusedError:
            return "refused"
        except (OSError, http.client.HTTPException):
            return "reset"
        finally:
            connection.close()


def test_a_killed_front_is_replaced_behind_ports_that_stay_open(server: Server) -> None:
    """What was changed before is served afterwards, and no process of the old one is left."""
    assert server.deploy("echo", server.store / "echo-2.0.mar")[-1]["step"] == "done"
    assert server.register(server.store / "echo-3.0.mar").status_code == 200
    scaled = server.management.put("/models/echo/3.0?min_worker=2&synchronous=true")
    assert scaled.status_code == 200
    before, front = served(server), server.front()
    assert before["echo"] == [("2.0", 1, True), ("3.0", 2, False)]
    old = [front, *front.children(recursive=True)]
    with Traffic(server) as traffic:
        wait_until(lambda: len(traffic.outcomes) > 3, what="there is traffic")
        killed_at = time.monotonic()
        front.kill()
        wait_another(server, front)
        reconnect(server)
        server.wait_ready()
        ready_s = time.monotonic() - killed_at
        first = len(traffic.outcomes)
        wait_until(lambda: traffic.outcomes[first:].count("200") > 3, what="answers again")
    assert "refused" not in traffic.outcomes
    assert traffic.outcomes.count("reset") <= 1
    assert served(server) == before
    assert ready_s < 15  # 5 on a machine with nothing else to do
    gone, alive = psutil.wait_procs(old, timeout=2)
    assert not alive, gone
    assert server.wait_record(lambda r: r["message"].startswith("the server has ended: SIGKILL"))


def test_a_removed_startup_model_and_a_default_stay_as_they_were_set(server: Server) -> None:
    assert server.management.put("/models/echo/3.0/set-default").status_code == 200
    assert server.management.delete("/models/held").status_code == 200
    before, front = served(server), server.front()
    front.kill()
    wait_another(server, front)
    reconnect(server)
    server.wait_ready()
    assert served(server) == before
    assert "held" not in before
    assert ("3.0", 2, True) in before["echo"]


def test_changes_that_cannot_be_written_are_refused_and_later_ones_are_not(server: Server) -> None:
    wait_until(lambda: len(server.pids("echo", "2.0")) == 1, what="it may become the default")
    before, front = served(server), server.front()
    limits = resource.prlimit(front.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(front.pid, resource.RLIMIT_FSIZE, (1, limits[1]))  # python ignores SIGXFSZ
    try:
        refused = [
            server.management.put("/models/echo/2.0/set-default"),
            server.management.put("/models/echo/2.0?min_worker=3&synchronous=true"),
            server.management.delete("/models/echo/2.0"),
        ]
    finally:
        resource.prlimit(front.pid, resource.RLIMIT_FSIZE, limits)
    for response in refused:
        assert response.status_code in {503, 507}, response.text
        assert "nothing was changed" in response.json()["message"]
    assert served(server) == before
    assert server.management.put("/models/echo/2.0?min_worker=2&synchronous=true").is_success
    assert ("2.0", 2, False) in served(server)["echo"]


def test_a_server_killed_with_all_its_processes_comes_back_equal(
    store: Path, tmp_path: Path
) -> None:
    flags = ("--state-file", str(tmp_path / "state.db"))
    with running_server(store, *flags, models=["echo-1.0.mar"]) as server:
        assert server.register(store / "echo-2.0.mar", batch_size=4).status_code == 200
        assert server.management.put("/models/echo/2.0/set-default").status_code == 200
        before = served(server)
        server.expected_exit_code = -signal.SIGKILL
        for process in server.processes():
            process.kill()
        server.wait_ended()
    with running_server(store, *flags, models=["echo-1.0.mar"]) as server:
        assert served(server) == before == {"echo": [("1.0", 1, False), ("2.0", 1, True)]}
        assert server.describe("echo")["batchSize"] == 4
        second = subprocess.run(
            serve_command(store, *flags),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=clean_environment(),
        )
        assert second.returncode == 2
        assert f"is in use by the server with process id {server.front().pid}" in second.stderr
    os.truncate(tmp_path / "state.db", 5000)
    (tmp_path / "state.db.snapshot.json").unlink()
    with running_server(store, *flags, models=["echo-1.0.mar"], ready=False) as server:
        reasons = server.management.get("/readyz").json()["reasons"]
        assert any("what was served is not known" in reason for reason in reasons)
        assert server.predict("echo", json={}, version="2.0").status_code == 404


def test_a_model_whose_default_is_missing_is_not_answered_by_another_version(
    store: Path, tmp_path: Path
) -> None:
    flags = ("--state-file", str(tmp_path / "state.db"))
    with running_server(store, *flags) as server:
        for version in ("1.0", "2.0"):
            assert server.register(store / f"echo-{version}.mar", initial_workers=0).is_success
        assert server.register(store / "held-1.0.mar", initial_workers=0).is_success
    away = store / "echo-1.0.away"
    (store / "echo-1.0.mar").rename(away)
    try:
        with running_server(store, *flags, ready=False) as server:
            wait_until(lambda: "held" in served(server), what="the other model is served")
            assert server.predict("echo", json={}).status_code == 404
            reasons = server.management.get("/readyz").json()["reasons"]
            assert any("echo-1.0.mar is not served: Model not found" in each for each in reasons)
            assert any("echo-2.0.mar is not served: the default" in each for each in reasons)
    finally:
        away.rename(store / "echo-1.0.mar")


def test_a_server_that_crashes_at_once_again_and_again_is_given_up(
    store: Path, tmp_path: Path
) -> None:
    with running_server(store, "--state-file", str(tmp_path / "state.db")) as server:
        server.expected_exit_code = 70
        for _ in range(5):
            wait_until(lambda: len(fronts(server)) == 1, what="a front")
            (front,) = fronts(server)
            front.kill()
            front.wait(timeout=30)
        assert server.wait_ended() == 70
        assert any("giving up" in record["message"] for record in server.records())


def test_without_a_supervisor_the_server_is_the_process_that_was_started(store: Path) -> None:
    with running_server(store, "--no-supervisor") as server:
        url = server.inference.base_url
        with socket.create_connection((url.host, url.port or 0)):
            assert server.inference.get("/ping").status_code == 200
        assert all(
            "serve" not in child.cmdline()
            for child in psutil.Process(server.process.pid).children()
        )
