from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.archives import service
from tests.integration.conversation import answers, connect, receive, send, until_answered
from tests.integration.server import (
    JSON,
    PATIENCE_S,
    Server,
    clean_environment,
    running_server,
    serve_command,
    wait_until,
)

PING = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves echo, held with two workers, crashing, and hasty: held with a deadline of 1 s."""
    store = tmp_path_factory.mktemp("store")
    archives = [
        service(store, "echo"),
        service(store, "held", yaml="minWorkers: 2\nmaxWorkers: 2\n"),
        service(store, "held", name="hasty", yaml="responseTimeout: 1\n"),
        service(store, "crashing"),
    ]
    with running_server(store, models=[archive.name for archive in archives]) as running:
        yield running


def hold(server: Server, gate: Path, name: str, *, model: str = "held") -> Future[httpx.Response]:
    """A request whose handler waits for the gate."""
    answer = server.predict_soon(model, json={"name": name, "gate": str(gate)})
    wait_until(gate.with_name(f"{name}.started").exists, what=f"{name} is being answered")
    return answer


def num_waiting(server: Server, model: str) -> int:
    return int(server.describe(model)["jobQueueStatus"]["pendingRequests"])


def restarts(server: Server, model: str) -> float:
    samples = server.samples("flambeau_worker_restarts_total")
    return samples[f'model="{model}",version="1.0"']


def wait_replaced(server: Server, model: str, pid: int) -> None:
    """Wait until the model has all of its workers again, without the one that is lost."""
    wanted = server.describe(model)["minWorkers"]

    def is_replaced() -> bool:
        pids = server.pids(model)
        return len(pids) == wanted and pid not in pids

    wait_until(is_replaced, what=f"worker {pid} is replaced")


def wait_reason(server: Server, model: str, reason: str) -> JSON:
    """The log record that gives this reason for the loss of one of a model's workers."""
    return server.wait_record(
        lambda record: record.get("model") == model and reason in str(record.get("reason"))
    )


def is_refused(response: Future[httpx.Response]) -> bool:
    """Whether a request ended with a server error, or with its connection."""
    try:
        return response.result().status_code >= 500
    except httpx.TransportError:
        return True


def test_a_killed_worker_is_replaced_and_another_answers_its_request(
    server: Server, gate: Path
) -> None:
    restarts_before = restarts(server, "held")
    held = hold(server, gate, "held")
    # the other worker is free, so it is the one that answers
    busy = set(server.pids("held")) - {server.predict("held", json={}).json()["pid"]}
    (pid,) = busy
    os.kill(pid, signal.SIGKILL)
    gate.touch()
    assert held.result().status_code == 200
    assert held.result().json()["pid"] != pid
    assert server.predict("held", json={}).status_code == 200
    wait_replaced(server, "held", pid)
    assert restarts(server, "held") == restarts_before + 1
    record = wait_reason(server, "held", "killed by SIGKILL")
    assert (record["version"], record["level"]) == ("1.0", "WARNING")


def test_a_model_that_crashes_again_and_again_does_not_hurt_another(server: Server) -> None:
    for order, reason in (("segfault", "killed by SIGSEGV"), ("exit", "exit code 3")):
        restarts_before = restarts(server, "crashing")
        (pid,) = server.pids("crashing")
        crashed = server.predict("crashing", json={"do": order})
        assert (crashed.status_code, crashed.json()["message"]) == (500, "Worker died.")
        assert server.predict("echo", json={}).status_code == 200
        wait_reason(server, "crashing", reason)
        wait_replaced(server, "crashing", pid)
        assert restarts(server, "crashing") == restarts_before + 2  # it was tried once more
        assert server.predict("crashing", json={"do": "answer"}).status_code == 200


def test_what_ended_two_workers_is_refused_without_ending_a_third(server: Server) -> None:
    poison = {"do": "exit", "mark": "quarantined"}
    assert server.predict("crashing", json={"do": "answer"}).status_code == 200
    assert server.predict("crashing", json=poison).status_code == 500
    restarts_before = restarts(server, "crashing")
    wait_until(lambda: len(server.pids("crashing")) == 1, what="the worker is replaced")
    refused = server.predict("crashing", json=poison)
    assert (refused.status_code, refused.json()["code"]) == (422, 422)
    assert "quarantineSec" in refused.json()["message"]
    assert server.predict("crashing", json={"do": "answer"}).status_code == 200
    assert restarts(server, "crashing") <= restarts_before + 1  # that of the second loss
    samples = server.samples("flambeau_poison_requests_refused_total")
    assert samples['model="crashing",version="1.0"'] == 1


def test_a_loop_of_crashes_is_given_up_and_scaling_tries_again(tmp_path: Path) -> None:
    archives = [service(tmp_path, "crashing"), service(tmp_path, "echo")]
    flags = ("--isolation", "strict")
    with running_server(tmp_path, *flags, models=[each.name for each in archives]) as server:
        (worker,) = server.describe("crashing")["workers"]
        assert worker["isolation"].startswith("strict")
        for number in range(3):  # each ends two workers, and nothing is answered in between
            crashed = server.predict("crashing", json={"do": "exit", "number": number})
            assert crashed.status_code >= 500
            assert server.predict("echo", json={}).status_code == 200
        wait_until(lambda: server.describe("crashing")["status"] == "failed", what="it is given up")
        assert restarts(server, "crashing") == 5
        reason = server.describe("crashing")["reason"]
        assert "exit code 3; 5 restarts within 60 s did not help" in reason
        (not_ready,) = server.management.get("/readyz").json()["reasons"]
        assert reason in not_ready
        assert server.predict("crashing", json={"do": "answer"}).status_code == 503
        scaled = server.management.put("/models/crashing?min_worker=1&synchronous=true")
        assert scaled.status_code == 200
        assert server.predict("crashing", json={"do": "answer"}).status_code == 200


def test_a_worker_that_left_a_child_behind_is_replaced_all_the_same(server: Server) -> None:
    """The child holds the worker's stdout open, and is in a session of its own."""
    (pid,) = server.pids("crashing")
    assert server.predict("crashing", json={"do": "leave a child"}).status_code == 200
    (child,) = [p for p in server.processes() if p.cmdline()[:1] == ["sleep"]]
    try:
        poison = {"do": "exit", "mark": "with a child"}
        assert server.predict("crashing", json=poison).status_code == 500
        wait_replaced(server, "crashing", pid)
    finally:
        child.kill()


def test_a_worker_that_outlasts_its_deadline_is_replaced(server: Server, gate: Path) -> None:
    (pid,) = server.pids("hasty")
    late = hold(server, gate, "late", model="hasty")
    assert late.result().status_code == 504
    assert late.result().json()["message"] == (
        "the worker gave no answer within response_timeout 1 s; it was restarted"
    )
    wait_until(lambda: not psutil.pid_exists(pid), what="it is gone")
    wait_replaced(server, "hasty", pid)
    assert server.predict("hasty", json={}).status_code == 200


def test_a_request_whose_client_left_is_never_executed(server: Server, gate: Path) -> None:
    running = [hold(server, gate, name) for name in ("one", "two")]  # both workers
    url = server.inference.base_url
    with socket.create_connection((url.host, url.port or 0)) as connection:
        body = f'{{"name": "left", "gate": "{gate}"}}'.encode()
        connection.sendall(
            b"POST /predictions/held HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        wait_until(lambda: num_waiting(server, "held") == 1, what="it waits")
    wait_until(lambda: num_waiting(server, "held") == 0, what="it is withdrawn")
    gate.touch()
    assert [answer.result().status_code for answer in running] == [200, 200]
    assert server.predict("held", json={}).status_code == 200
    assert not gate.with_name("left.started").exists()
    cancelled = server.samples("flambeau_requests_total")
    assert cancelled['model="held",outcome="cancelled",version="1.0"'] == 1


def test_nobody_listens_but_where_the_server_says(server: Server) -> None:
    """Workers and templates are spoken to through pairs of sockets, which have no names."""
    urls = [str(each.base_url) for each in (server.inference, server.management, server.metrics)]
    targets = [server.grpc_target(f"grpc_{each}") for each in ("inference", "management")]
    ports = {int(each.strip("/").rpartition(":")[2]) for each in (*urls, *targets)}
    sockets = [each for process in server.processes() for each in process.net_connections("all")]
    assert {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN} == ports
    assert not [each for each in sockets if each.family is socket.AF_UNIX and each.laddr]
    assert any(each.family is socket.AF_UNIX for each in sockets), "none could be read"


def test_sigterm_answers_what_is_there_and_then_ends(tmp_path: Path, gate: Path) -> None:
    archive = service(tmp_path, "held")
    with running_server(tmp_path, models=[archive.name]) as server:
        running = hold(server, gate, "running")
        waiting = server.predict_soon("held", json={})
        wait_until(lambda: num_waiting(server, "held") == 1, what="another one waits")
        server.stop()
        wait_until(
            lambda: server.management.get("/readyz").status_code == 503, what="it is not ready"
        )
        assert server.management.get("/readyz").json()["reasons"] == ["the server is stopping"]
        assert server.management.get("/livez").status_code == 200
        refused = server.register(archive, model_name="late")
        assert refused.status_code == 409
        gate.touch()
        assert [running.result().status_code, waiting.result().status_code] == [200, 200]
        assert server.wait_ended() == 0
        (drained,) = [r for r in server.records() if r["message"] == "drained"]
        assert drained["requests_given_up"] == 0


def test_sigterm_resets_no_request(tmp_path: Path, gate: Path) -> None:
    """What is there is answered, and what crosses with the end of its connection is told so."""
    archive = service(tmp_path, "held")
    with running_server(tmp_path, models=[archive.name]) as server, ExitStack() as stack:
        pipelined, sending, used, unused, half = (
            stack.enter_context(connect(server)) for _ in range(5)
        )
        pipelined.sendall(held_request("first", gate) + held_request("second", gate))
        wait_until(gate.with_name("first.started").exists, what="the first is being answered")
        late = held_request("late", gate)
        sending.sendall(late[:-1])
        used.sendall(PING)
        assert answers(until_answered(used))[0].status == 200
        half.sendall(late[:20])
        server.stop()

        for client in (used, unused, half):
            assert select.select([client], [], [], PATIENCE_S)[0], "there is no goodbye"
            send(client, PING)  # as if it did not know yet
            (goodbye,) = answers(receive(client))
            assert (goodbye.status, goodbye.headers["connection"]) == (408, "close")
            assert "over another one" in goodbye.error()["message"]
        sending.sendall(late[-1:])
        gate.touch()
        found = [answers(receive(each)) for each in (pipelined, sending)]
        assert [[each.status for each in some] for some in found] == [[200, 200], [200]]
        assert "connection" not in found[0][0].headers
        assert [some[-1].headers["connection"] for some in found] == ["close", "close"]
        assert server.wait_ended() == 0

        server.stderr.wait_closed()
        refused = [record["path"] for record in server.records() if record.get("status") == 408]
        assert len(refused) == 1, "only one of them had begun a request"


def held_request(name: str, gate: Path) -> bytes:
    body = f'{{"name": "{name}", "gate": "{gate}"}}'.encode()
    return (
        b"POST /predictions/held HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


def test_a_second_signal_drops_what_is_there_and_ends_at_once(tmp_path: Path, gate: Path) -> None:
    archive = service(tmp_path, "held", yaml="minWorkers: 2\nmaxWorkers: 2\n")
    with running_server(tmp_path, "--drain-delay-s", "600", models=[archive.name]) as server:
        dropped = hold(server, gate, "dropped")
        server.stop()
        wait_until(
            lambda: server.management.get("/readyz").status_code == 503, what="it is not ready"
        )
        # load balancers need a while to notice, so requests that still come are answered
        assert server.predict("held", json={}).status_code == 200
        server.stop(signal.SIGINT)
        assert server.process.wait(timeout=10) == 0
        assert is_refused(dropped)


def test_a_request_that_does_not_end_is_given_up_after_the_drain_timeout(
    tmp_path: Path, gate: Path
) -> None:
    archive = service(tmp_path, "held")
    with running_server(tmp_path, "--drain-timeout-s", "4", models=[archive.name]) as server:
        endless = hold(server, gate, "endless")
        waiting = server.predict_soon("held", json={})
        wait_until(lambda: num_waiting(server, "held") == 1, what="another one waits")
        server.stop()
        assert server.wait_ended() == 0
        server.stderr.wait_closed()
        logged = {record["message"]: record for record in server.records()}
        asked, drained = logged["stopping: SIGTERM"], logged["drained"]
        assert 4 <= (logged_at(drained) - logged_at(asked)).total_seconds() < 7
        for answer in (endless.result(), waiting.result()):
            assert answer.status_code >= 500
            assert answer.json()["code"] == answer.status_code
        assert drained["requests_given_up"] >= 1


def logged_at(record: JSON) -> datetime:
    return datetime.fromisoformat(record["time"].rstrip("Z"))


def test_a_killed_server_takes_its_workers_with_it(tmp_path: Path, gate: Path) -> None:
    archive = service(tmp_path, "held", yaml="minWorkers: 2\nmaxWorkers: 2\n")
    with running_server(tmp_path, models=[archive.name]) as server:
        running = hold(server, gate, "running")
        server.expected_exit_code = -signal.SIGKILL
        wait_until(lambda: len(server.workers()) == 2, what="both workers run")
        server.stop(signal.SIGKILL)
        wait_until(lambda: not server.processes(), what="all workers are gone", timeout_s=2)
        assert is_refused(running)


def test_sigterm_ends_a_server_that_is_still_loading(tmp_path: Path) -> None:
    archive = service(tmp_path, "hanging_load")
    with running_server(tmp_path, models=[archive.name], ready=False) as server:
        wait_until(lambda: len(server.workers()) == 1, what="a worker has been started")
        server.stop()
        assert server.process.wait(timeout=10) == 0


def test_sigterm_during_a_deployment_ends_both_versions(tmp_path: Path) -> None:
    old = service(tmp_path, "echo", version="1.0")
    new = service(tmp_path, "hanging_load", name="echo", version="2.0")
    with running_server(tmp_path, models=[old.name]) as server:
        deployment = server.in_thread(lambda: server.deploy("echo", new))
        wait_until(lambda: len(server.workers()) == 2, what="the new version is loading")
        assert server.predict("echo", json={}).status_code == 200
        server.stop()
        assert server.process.wait(timeout=10) == 0
        last = deployment.result()[-1]
        assert (last["step"], last["message"]) == (
            "failed",
            "the worker was stopped before it was ready",
        )


def test_connections_left_half_open_do_not_keep_the_server(tmp_path: Path) -> None:
    with running_server(tmp_path, "--drain-timeout-s", "1") as server:
        url = server.inference.base_url
        service_url = (url.host, url.port or 0)
        idle, half_head, half_body = (socket.create_connection(service_url) for _ in range(3))
        with idle, half_head, half_body:
            half_head.sendall(b"POST /predictions/x HTTP/1.1\r\nhost")
            half_body.sendall(b"POST /ping HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
            assert server.inference.get("/ping").status_code == 200
            server.stop()
            assert server.process.wait(timeout=5) == 0


def start_and_fail(store: Path, *flags: str) -> str:
    """Start a server that cannot start; returns what it says on stderr."""
    completed = subprocess.run(
        serve_command(store, *flags),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=clean_environment(),
    )
    assert (completed.returncode, completed.stdout) == (2, "")
    return completed.stderr


@pytest.mark.parametrize("audience", ["inference", "management", "metrics"])
def test_an_address_in_use_ends_the_start_and_is_named(tmp_path: Path, audience: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        completed = start_and_fail(tmp_path, f"--{audience}-address", address)
    assert completed.startswith(
        f"flambeau: {audience}_address {address} cannot be bound: Address already in use"
    )
    assert completed.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--management-address", "0.0.0.0:0"],
            "flambeau: management_address is 0.0.0.0:0, which other machines can reach",
        ),
        (["--job-queue-size", "0"], "flambeau: job_queue_size is 0; use 1 or more"),
    ],
)
def test_a_wrong_setting_ends_the_start_and_is_named(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    assert start_and_fail(tmp_path, *flags).startswith(message)
