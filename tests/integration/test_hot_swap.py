from __future__ import annotations

import http.client
import json
import subprocess
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.integration.archives import doubling, service
from tests.integration.server import (
    FLAMBEAU,
    JSON,
    Server,
    clean_environment,
    running_server,
    wait_until,
)

NUM_CLIENTS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves versions of echo, one after the other: each test leaves one in service."""
    store = tmp_path_factory.mktemp("store")
    service(store, "echo", version="1.0")
    with running_server(store, models=["echo-1.0.mar"]) as running:
        yield running


class Client:
    """Posts to one model over one connection, again and again, until told to stop.

    Attributes:
        versions: The version of each answer, in order.
    """

    def __init__(self, url: httpx.URL, model: str) -> None:
        self.versions: list[str] = []
        self._url = url
        self._path = f"/predictions/{model}"

    def run(self, stopped: threading.Event) -> None:
        """Post until stopped; the first request that fails ends it with an exception."""
        connection = http.client.HTTPConnection(self._url.host, self._url.port or 0, timeout=30)
        try:
            while not stopped.is_set():
                connection.request("POST", self._path, body=b"{}")
                response = connection.getresponse()
                body = response.read()
                assert response.status == 200, body
                self.versions.append(json.loads(body)["version"])
        finally:
            connection.close()


@contextmanager
def clients(server: Server, model: str, *, number: int) -> Generator[list[Client]]:
    """Clients that post during the block; leaving it raises if one request has failed."""
    stopped = threading.Event()
    posting = [Client(server.inference.base_url, model) for _ in range(number)]
    running = [server.in_thread(partial(client.run, stopped)) for client in posting]
    try:
        wait_until(lambda: all_busy(posting, running), what="every client has had an answer")
        yield posting
    finally:
        stopped.set()
    for client in running:
        client.result()


def all_busy(posting: list[Client], running: list[Future[None]]) -> bool:
    assert not any(client.done() for client in running), [c.exception() for c in running]
    return all(client.versions for client in posting)


def default_version(server: Server, model: str = "echo") -> str:
    return str(server.describe(model)["modelVersion"])


def deploy_by_command(server: Server, archive: Path) -> subprocess.CompletedProcess[str]:
    command = [FLAMBEAU, "models", "--management-url", str(server.management.base_url)]
    command += ["deploy", "echo", str(archive), "--model-store", str(server.store)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=clean_environment()
    )


@dataclass(frozen=True)
class Swap:
    """A deployment of echo 2.0 over 1.0 under load: what clients saw, and what was told."""

    versions: list[list[str]]
    events: list[JSON]


@pytest.fixture(scope="module")
def swap(server: Server) -> Swap:
    archive = service(server.store, "echo", version="2.0")
    with clients(server, "echo", number=NUM_CLIENTS) as posting:
        events = server.deploy("echo", archive)
        wait_until(
            lambda: all(client.versions[-1] == "2.0" for client in posting),
            what="every client has had an answer of the new version",
        )
    return Swap([client.versions for client in posting], events)


def test_a_swap_under_load_fails_no_request_and_never_goes_back(swap: Swap) -> None:
    assert len(swap.versions) == NUM_CLIENTS
    for versions in swap.versions:
        assert versions == sorted(versions)
        assert set(versions) == {"1.0", "2.0"}


def test_a_deployment_tells_its_steps_in_order(swap: Swap) -> None:
    assert [(event["step"], event["version"]) for event in swap.events] == [
        *((step, "2.0") for step in ("registered", "loading", "warming_up", "checking")),
        *((step, "2.0") for step in ("ready", "default")),
        ("drained", "1.0"),
        ("done", "2.0"),
    ]
    assert {event["model"] for event in swap.events} == {"echo"}
    assert [event["message"] for event in swap.events if event["message"]] == [
        "no samples in the archive",
        "instead of version 1.0",
        "0 requests given up",
    ]


def test_the_old_version_is_gone_after_a_swap(server: Server, swap: Swap) -> None:
    assert server.predict("echo", json={}, version="1.0").status_code == 404
    assert len(server.workers()) == 1


_REASONS = {
    "import": "RuntimeError: the import went wrong",
    "load": "RuntimeError: the weights went missing",
    "hang": "within startup_timeout 4 s",
    "exit": "exit code 3; its last output was: no licence found",
    "self-check": "does not compute what was recorded when it was exported",
}


@pytest.fixture(scope="module")
def failures(server: Server) -> dict[str, list[JSON]]:
    """The events of versions that fail, each in its way, deployed at once while a client posts."""
    old, pids = default_version(server), server.pids("echo")
    archives = {
        "import": service(server.store, "failing_import", version="import"),
        "load": service(server.store, "failing_load", version="load"),
        "hang": service(server.store, "hanging_load", version="hang", yaml="startupTimeout: 4"),
        "exit": service(server.store, "exiting_load", version="exit"),
        "self-check": doubling(server.store, factor=3.0, version="self-check"),
    }
    with clients(server, "echo", number=1) as (client,):
        deployments = {
            kind: server.in_thread(partial(server.deploy, "echo", archive))
            for kind, archive in archives.items()
        }
        events = {kind: deployment.result() for kind, deployment in deployments.items()}
    assert set(client.versions) == {old}
    assert server.pids("echo") == pids
    assert server.management.get("/readyz").status_code == 200
    return events


@pytest.mark.parametrize("kind", _REASONS)
def test_a_version_that_fails_never_takes_traffic(
    server: Server, failures: dict[str, list[JSON]], kind: str
) -> None:
    *before, last = failures[kind]
    assert (last["step"], last["version"]) == ("failed", kind)
    assert _REASONS[kind] in last["message"]
    assert not {"ready", "default"} & {event["step"] for event in before}
    assert server.predict("echo", json={}, version=kind).status_code == 404


def test_a_version_that_computes_what_was_recorded_takes_traffic(server: Server) -> None:
    events = server.deploy("doubling", doubling(server.store, factor=2.0), batch_size=2)
    (ready,) = [event for event in events if event["step"] == "ready"]
    assert (ready["message"], events[-1]["step"]) == ("3 samples, max abs error 0", "done")
    assert server.predict("doubling", json=21).json()["doubled"] == 42
    (worker,) = server.describe("doubling")["workers"]
    assert worker["selfCheck"] == ready["message"]
    assert worker["optimization"] == "as exported: the handler is no BaseHandler"
    assert server.management.delete("/models/doubling").status_code == 200


def test_the_old_version_answers_what_it_has_while_the_new_one_takes_over(
    server: Server, gate: Path
) -> None:
    assert server.register(service(server.store, "held", version="1.0")).status_code == 200
    running = server.predict_soon("held", json={"name": "running", "gate": str(gate)})
    wait_until(gate.with_name("running.started").exists, what="the old version is busy")
    waiting = server.predict_soon("held", json={})
    wait_until(
        lambda: server.describe("held")["jobQueueStatus"]["pendingRequests"] == 1,
        what="a request waits for the old version",
    )
    archive = service(server.store, "held", version="2.0")
    deployment = server.in_thread(lambda: server.deploy("held", archive))
    wait_until(lambda: default_version(server, "held") == "2.0", what="the new version took over")
    assert server.predict("held", json={}).json()["version"] == "2.0"
    assert not deployment.done()
    gate.touch()
    assert [running.result().json()["version"], waiting.result().json()["version"]] == ["1.0"] * 2
    events = deployment.result()
    assert [event["message"] for event in events if event["step"] == "drained"] == [
        "0 requests given up"
    ]
    assert server.management.delete("/models/held").status_code == 200


def test_a_deployment_goes_on_when_its_caller_hangs_up(server: Server) -> None:
    archive = service(server.store, "echo", version="5.0")
    with server.management.stream(
        "POST", "/models/echo/deploy", params={"url": archive.name}
    ) as response:
        assert next(response.iter_lines())
    wait_until(lambda: default_version(server) == "5.0", what="the version is in service")
    wait_until(
        lambda: len(server.management.get("/models/echo/all").json()) == 1, what="the old is gone"
    )


def test_a_deployment_of_a_version_that_exists_is_refused_before_it_starts(server: Server) -> None:
    archive = service(server.store, "echo", name="copy", version=default_version(server))
    response = server.management.post("/models/echo/deploy", params={"url": archive.name})
    assert (response.status_code, response.json()["type"]) == (409, "ConflictStatusException")


def test_the_command_deploys_and_tells_each_step(server: Server, tmp_path: Path) -> None:
    done = deploy_by_command(server, service(tmp_path, "echo", version="6.0"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "echo 6.0 registered"
    assert "echo 6.0 ready: no samples in the archive" in lines
    assert lines[-1] == "echo 6.0 done"
    assert default_version(server) == "6.0"


def test_the_command_fails_when_the_version_does(server: Server, tmp_path: Path) -> None:
    old = default_version(server)
    failed = deploy_by_command(server, service(tmp_path, "failing_load", version="7.0"))
    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1].startswith("echo 7.0 failed: ")
    assert "the weights went missing" in failed.stdout
    assert default_version(server) == old


def test_the_command_says_why_the_server_refuses(server: Server) -> None:
    refused = deploy_by_command(server, Path("nowhere.mar"))
    assert refused.returncode == 2
    assert refused.stderr == "flambeau: Model not found at: nowhere.mar\n"
