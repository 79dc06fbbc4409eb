"""Workers that are forked from the server's template: what users see of it."""

from __future__ import annotations

import signal
from collections.abc import Generator
from concurrent.futures import Future
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.archives import service, summing
from tests.integration.server import Server, is_template, running_server, wait_until

pytestmark = pytest.mark.slow

_MAX_EXTRA_BYTES = 60 << 20  # a worker that imports PyTorch by itself has 140 MiB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    store = tmp_path_factory.mktemp("store")
    archives = [summing(store), service(store, "held")]
    with running_server(store, models=[archive.name for archive in archives]) as running:
        yield running


def templates(server: Server) -> list[psutil.Process]:
    """The server's template, and those that have loaded a model."""
    return [process for process in server.processes() if is_template(process)]


def scale(server: Server, model: str, workers: int) -> list[int]:
    """Bring a model to a number of workers; their processes."""
    parameters: dict[str, str | int] = {"min_worker": workers, "synchronous": "true"}
    response = server.management.put(f"/models/{model}", params=parameters)
    assert response.status_code == 200, response.text
    return server.pids(model)


def hold(server: Server, gate: Path, name: str) -> Future[httpx.Response]:
    """A request whose handler waits for the gate."""
    answer = server.predict_soon("held", json={"name": name, "gate": str(gate)})
    wait_until(gate.with_name(f"{name}.started").exists, what=f"{name} is being answered")
    return answer


def test_further_workers_take_little_memory_and_answer_alike(server: Server) -> None:
    first, *further = scale(server, "summing", 4)
    answers = [
        server.in_thread(lambda: server.predict("summing", json=[1, 2, 3.5])) for _ in range(32)
    ]
    assert {answer.result().text for answer in answers} == {"6.5"}
    for pid in further:
        assert psutil.Process(pid).memory_full_info().pss < _MAX_EXTRA_BYTES
    assert len(templates(server)) == 2
    assert scale(server, "summing", 1) == [first]
    assert scale(server, "summing", 0) == []
    wait_until(lambda: len(templates(server)) == 1, what="the model's own template has ended")


def test_the_end_of_the_template_is_no_event_for_clients(server: Server, gate: Path) -> None:
    (template,) = templates(server)
    running = hold(server, gate, "running")
    template.kill()
    assert len(scale(server, "held", 2)) == 2
    gate.touch()
    assert running.result().status_code == 200
    wait_until(lambda: template not in templates(server) != [], what="there is another")


def test_workers_end_with_a_server_whose_template_was_killed(tmp_path: Path, gate: Path) -> None:
    archive = service(tmp_path, "held")
    with running_server(tmp_path, models=[archive.name]) as server:
        running = hold(server, gate, "running")
        templates(server)[0].kill()
        server.expected_exit_code = -signal.SIGKILL
        server.stop(signal.SIGKILL)
        wait_until(lambda: not server.processes(), what="all are gone", timeout_s=5)
        assert running.exception() is not None


def test_a_server_can_do_without(tmp_path: Path) -> None:
    archive = summing(tmp_path)
    with running_server(tmp_path, "--no-fork-workers", models=[archive.name]) as server:
        assert len(server.processes()) == 3  # supervisor, front and worker
        assert server.predict("summing", json=[1, 2, 3.5]).text == "6.5"
