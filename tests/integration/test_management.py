from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from flambeau.archive import write_archive
from flambeau.manifest import Manifest
from tests.integration.archives import service
from tests.integration.server import Server, running_server, wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves echo 1.0 with one worker; each test leaves it so."""
    store = tmp_path_factory.mktemp("store")
    service(store, "echo", version="1.0")
    with running_server(store, models=["echo-1.0.mar"]) as running:
        yield running


def unregister(server: Server, path: str) -> None:
    assert server.management.delete(f"/models/{path}").status_code == 200


def test_a_registration_answers_once_its_workers_are_ready(server: Server) -> None:
    archive = service(server.store, "echo", name="sync")
    response = server.register(archive)
    assert (response.status_code, response.json()) == (
        200,
        {"status": 'Model "sync" Version: 1.0 registered with 1 initial workers'},
    )
    assert server.predict("sync", json={}).json()["model"] == "sync"
    assert server.describe("sync")["loadedAtStartup"] is False
    unregister(server, "sync")


def test_an_asynchronous_registration_answers_at_once_and_loads_later(server: Server) -> None:
    archive = service(server.store, "held", name="async")
    response = server.register(archive, model_name="renamed", synchronous="false", batch_size=3)
    assert (response.status_code, response.json()) == (
        202,
        {"status": "Processing worker updates..."},
    )
    described = server.describe("renamed")
    assert [worker["status"] for worker in described["workers"]] == ["UNLOADING"]
    assert (described["batchSize"], described["status"]) == (3, "starting")
    # a request that comes meanwhile waits for the worker instead of failing
    assert server.predict("renamed", json={}).status_code == 200
    assert server.describe("renamed")["status"] == "ready"
    unregister(server, "renamed")


def test_a_model_without_workers_is_registered_and_refuses_requests(server: Server) -> None:
    archive = service(server.store, "echo", name="idle")
    response = server.register(archive, initial_workers=0)
    assert (response.status_code, response.json()) == (
        200,
        {
            "status": 'Model "idle" Version: 1.0 registered with 0 initial workers. '
            "Use scale workers API to add workers for the model."
        },
    )
    refused = server.predict("idle", json={})
    assert (refused.status_code, refused.json()["type"]) == (503, "ServiceUnavailableException")
    assert refused.json()["message"].startswith(
        'Model "idle" has no worker to serve inference request. Please use scale workers API'
    )
    assert server.management.get("/readyz").status_code == 200  # nobody wanted it to serve
    unregister(server, "idle")


def test_parameters_may_come_as_json(server: Server) -> None:
    archive = service(server.store, "echo", name="json")
    parameters = {"url": archive.name, "model_name": "from-json", "batch_size": "7"}
    response = server.management.post("/models?model_name=ignored", json=parameters)
    assert response.status_code == 200
    described = server.describe("from-json")
    assert (described["batchSize"], described["workers"]) == (7, [])
    unregister(server, "from-json")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("missing.mar", "Model not found at: missing.mar"),
        ("../secret.mar", "Relative path is not allowed in url: ../secret.mar"),
        ("https://example.org/a.mar", "does not match any allowed URL(s)"),
        ("file:///etc/passwd", "does not match any allowed URL(s)"),
        ("/etc/passwd", "Model not found at: /etc/passwd"),
    ],
)
def test_an_archive_that_is_not_in_the_store_is_not_found(
    server: Server, url: str, message: str
) -> None:
    response = server.management.post("/models", params={"url": url})
    assert (response.status_code, response.json()["type"]) == (404, "ModelNotFoundException")
    assert message in response.json()["message"]


def test_a_registration_without_an_archive_is_refused(server: Server) -> None:
    response = server.management.post("/models")
    assert (response.status_code, response.json()["type"]) == (400, "BadRequestException")
    assert response.json()["message"] == "Parameter url is required."


def test_a_corrupt_archive_is_refused(server: Server) -> None:
    whole = service(server.store, "echo", name="whole").read_bytes()
    (server.store / "cut.mar").write_bytes(whole[: len(whole) // 2])
    (server.store / "text.mar").write_bytes(b"not a zip file")
    manifest = Manifest(model_name="no-handler")
    write_archive(server.store / "no-handler.mar", manifest=manifest, files={})
    for name in ("cut.mar", "text.mar", "no-handler.mar"):
        response = server.management.post("/models", params={"url": name})
        assert (response.status_code, response.json()["type"]) == (400, "InvalidModelException")


def test_the_same_version_twice_is_a_conflict(server: Server) -> None:
    response = server.register(server.store / "echo-1.0.mar")
    assert (response.status_code, response.json()) == (
        409,
        {
            "code": 409,
            "type": "ConflictStatusException",
            "message": "Model version 1.0 is already registered for model echo",
        },
    )
    assert server.predict("echo", json={}).status_code == 200


def test_a_model_that_does_not_load_is_an_error_with_its_reason_and_is_gone(
    server: Server,
) -> None:
    response = server.register(service(server.store, "failing_load"))
    document = response.json()
    assert (response.status_code, document["type"]) == (500, "InternalServerException")
    assert document["message"] == "Failed to start workers for model failing_load version: 1.0"
    assert "RuntimeError: the weights went missing (handler.py, line " in document["reason"]
    assert server.management.get("/models/failing_load").status_code == 404
    assert server.predict("failing_load", json={}).status_code == 404


def test_an_asynchronous_registration_that_does_not_load_stays_and_says_why(
    server: Server,
) -> None:
    archive = service(server.store, "failing_load", name="failing_later")
    assert server.register(archive, synchronous="false").status_code == 202
    wait_until(
        lambda: server.describe("failing_later")["status"] == "failed", what="the worker has failed"
    )
    described = server.describe("failing_later")
    assert [worker["status"] for worker in described["workers"]] == ["UNLOADING"]
    assert "the weights went missing" in described["reason"]
    assert server.management.get("/readyz").status_code == 503
    refused = server.predict("failing_later", json={})
    assert refused.status_code == 503
    assert "the weights went missing" in refused.json()["message"]
    unregister(server, "failing_later")
    assert server.management.get("/readyz").status_code == 200


def test_scaling_up_adds_a_worker_and_scaling_down_ends_one(server: Server) -> None:
    (first,) = server.pids("echo")
    up = server.management.put("/models/echo", params={"min_worker": 2, "synchronous": "true"})
    pids = server.pids("echo")
    assert (up.status_code, up.json()) == (200, {"status": "Workers scaled to 2 for model: echo"})
    assert (len(set(pids)), pids[0]) == (2, first)
    down = server.management.put("/models/echo/1.0", params={"min_worker": 1})
    assert (down.status_code, down.json()) == (202, {"status": "Processing worker updates..."})
    wait_until(lambda: len(server.describe("echo")["workers"]) == 1, what="one worker has gone")
    assert set(server.pids("echo")) < set(pids)
    assert server.predict("echo", json={}).json()["pid"] in pids


def test_scaling_to_nothing_and_back_keeps_the_model(server: Server) -> None:
    none = server.management.put(
        "/models/echo",
        params={"min_worker": 0, "max_worker": 0, "synchronous": "true", "model_version": "1.0"},
    )
    assert none.json() == {"status": "Workers scaled to 0 for model: echo, version: 1.0"}
    assert server.describe("echo")["workers"] == []
    assert server.predict("echo", json={}).status_code == 503
    back = server.management.put("/models/echo", params={"synchronous": "true"})
    assert back.json() == {"status": "Workers scaled to 1 for model: echo"}
    assert server.predict("echo", json={}).status_code == 200


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (
            "/models/echo",
            {"min_worker": "2", "max_worker": "1"},
            (400, "max_worker cannot be less than min_worker."),
        ),
        (
            "/models/echo",
            {"min_worker": "-1"},
            (400, "initial_workers (min_worker) is -1; use 0 to 1024"),
        ),
        (
            "/models/echo",
            {"min_worker": "1000000000"},
            (400, "initial_workers (min_worker) is 1000000000; use 0 to 1024"),
        ),
        ("/models/nobody", {}, (404, "Model not found: nobody")),
        ("/models/echo/9", {}, (404, "Model version: 9 does not exist for model: echo")),
    ],
)
def test_scaling_that_makes_no_sense_is_refused_and_changes_nothing(
    server: Server, path: str, query: dict[str, str], expected: tuple[int, str]
) -> None:
    pids = server.pids("echo")
    response = server.management.put(path, params=query)
    assert (response.status_code, response.json()["message"]) == expected
    assert server.pids("echo") == pids


def test_a_description_has_torchserves_fields_in_its_order(server: Server) -> None:
    described = server.describe("echo")
    (worker,) = described.pop("workers")
    digest = described.pop("archiveDigest")
    signature = described.pop("archiveSignature")
    assert signature == {"status": "unchecked", "keys": [], "reason": ""}
    assert list(described) == [
        *("modelName", "modelVersion", "modelUrl", "runtime", "minWorkers", "maxWorkers"),
        *("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout"),
        *("maxRetryTimeoutInSec", "clientTimeoutInMills", "parallelType", "parallelLevel"),
        *("deviceType", "continuousBatching", "useJobTicket", "useVenv", "stateful"),
        *("sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence"),
        *("maxSequenceJobQueueSize", "loadedAtStartup", "jobQueueStatus", "status", "reason"),
    ]
    expected = {
        "modelName": "echo",
        "modelVersion": "1.0",
        "modelUrl": "echo-1.0.mar",
        "minWorkers": 1,
        "deviceType": "cpu",
        "responseTimeout": 120,
        "loadedAtStartup": True,
        "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
    }
    assert described | expected == described
    assert len(bytes.fromhex(digest)) == 32
    assert list(worker)[:7] == [
        *("id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage")
    ]
    assert (worker["status"], worker["gpu"], worker["gpuUsage"]) == ("READY", False, "N/A")
    assert worker["memoryUsage"] > 10_000_000
    assert int(worker["id"]) >= 9000


def test_models_are_listed_in_pages(server: Server) -> None:
    for name in ("a", "b", "c"):
        server.register(service(server.store, "echo", name=name), initial_workers=0)
    first = server.management.get("/models", params={"limit": 3}).json()
    second = server.management.get(
        "/models", params={"limit": 3, "next_page_token": first["nextPageToken"]}
    ).json()
    beyond = server.management.get("/models", params={"next_page_token": 99}).json()
    assert [model["modelName"] for model in first["models"]] == ["a", "b", "c"]
    assert second == {"models": [{"modelName": "echo", "modelUrl": "echo-1.0.mar"}]}
    assert beyond == {"models": []}
    for name in ("a", "b", "c"):
        unregister(server, name)


def test_only_a_version_that_is_ready_becomes_the_default(server: Server) -> None:
    server.register(service(server.store, "echo", version="2.0"), initial_workers=0)
    refused = server.management.put("/models/echo/2.0/set-default")
    assert (refused.status_code, refused.json()["type"]) == (409, "ConflictStatusException")
    assert server.predict("echo", json={}).json()["version"] == "1.0"
    up = server.management.put("/models/echo/2.0", params={"synchronous": "true"})
    assert up.status_code == 200
    done = server.management.put("/models/echo/2.0/set-default")
    assert done.json() == {
        "status": 'Default version successfully updated for model "echo" to "2.0"'
    }
    assert server.predict("echo", json={}).json()["version"] == "2.0"
    assert server.predict("echo", json={}, version="1.0").json()["version"] == "1.0"
    listed = server.management.get("/models").json()["models"]
    assert listed == [{"modelName": "echo", "modelUrl": "echo-2.0.mar"}]
    both = server.management.get("/models/echo/all").json()
    assert [version["modelVersion"] for version in both] == ["1.0", "2.0"]

    protected = server.management.delete("/models/echo/2.0")
    assert (protected.status_code, protected.json()) == (
        403,
        {
            "code": 403,
            "type": "InvalidModelVersionException",
            "message": "Cannot remove default version for model echo",
        },
    )
    assert server.management.put("/models/echo/1.0/set-default").status_code == 200
    unregister(server, "echo/2.0")
    gone = server.predict("echo", json={}, version="2.0")
    assert (gone.status_code, gone.json()["type"]) == (404, "ModelVersionNotFoundException")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/models/nobody/1.0/set-default", "Model not found: nobody"),
        ("/models/echo/9/set-default", "Model version 9 does not exist for model echo"),
    ],
)
def test_an_unknown_version_does_not_become_the_default(
    server: Server, path: str, message: str
) -> None:
    response = server.management.put(path)
    assert (response.status_code, response.json()["message"]) == (404, message)


def test_unregistering_answers_what_is_running_and_then_nothing(server: Server, gate: Path) -> None:
    server.register(service(server.store, "held", name="leaving"))
    running = server.predict_soon("leaving", json={"name": "running", "gate": str(gate)})
    wait_until(gate.with_name("running.started").exists, what="the worker is busy")
    waiting = server.predict_soon("leaving", json={})
    wait_until(
        lambda: server.describe("leaving")["jobQueueStatus"]["pendingRequests"] == 1,
        what="the second one waits",
    )
    removal = server.in_thread(lambda: server.management.delete("/models/leaving"))
    # not asked by a prediction: one that came before the removal would wait for the gate
    wait_until(
        lambda: server.management.get("/models/leaving").status_code == 404, what="it is removed"
    )
    assert server.predict("leaving", json={}).status_code == 404
    assert not removal.done()
    gate.touch()
    assert removal.result().json() == {"status": 'Model "leaving" unregistered'}
    assert [running.result().status_code, waiting.result().status_code] == [200, 200]
    again = server.management.delete("/models/leaving")
    assert (again.status_code, again.json()["message"]) == (404, "Model not found: leaving")


def test_with_the_model_api_off_models_cannot_be_added_or_removed(tmp_path: Path) -> None:
    archive = service(tmp_path, "echo")
    with running_server(tmp_path, "--no-enable-model-api") as server:
        for response in (
            server.register(archive, model_name="other"),
            server.management.delete("/models/echo"),
            server.management.post("/models/echo/deploy", params={"url": archive.name}),
        ):
            assert (response.status_code, response.json()) == (
                405,
                {
                    "code": 405,
                    "type": "MethodNotAllowedException",
                    "message": "Requested method is not allowed, please refer to API document.",
                },
            )
        assert server.management.get("/models").json() == {"models": []}
        assert server.management.put("/models/echo").status_code == 404


def test_an_archive_that_cannot_be_served_keeps_the_server_not_ready(tmp_path: Path) -> None:
    archive = service(tmp_path, "failing_import")
    models = [archive.name, "missing.mar"]
    with running_server(tmp_path, models=models, ready=False) as server:
        wait_until(
            lambda: (
                len(server.management.get("/readyz").json()["reasons"]) == 2
                and "failed" in server.management.get("/readyz").text
            ),
            what="both have been given up",
        )
        readiness = server.management.get("/readyz")
        alive = server.management.get("/livez")
        assert (readiness.status_code, alive.status_code) == (503, 200)
        reasons = " ".join(readiness.json()["reasons"])
        assert "missing.mar is not served: Model not found at: missing.mar" in reasons
        assert "RuntimeError: the import went wrong" in reasons
