from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
import torch

from tests.integration.archives import doubling
from tests.integration.server import Server, running_server, wait_until

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves doubling on two workers, in batches of up to 8."""
    store = tmp_path_factory.mktemp("store")
    archive = doubling(store, factor=2.0, yaml="minWorkers: 2\nmaxWorkers: 2\nbatchSize: 8\n")
    with running_server(store, models=[archive.name]) as running:
        yield running


def devices() -> list[str]:
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def test_workers_are_spread_over_the_gpus(server: Server) -> None:
    described = server.describe("doubling")
    wanted = [f"gpuId::{index % len(devices())}" for index in range(2)]
    assert described["deviceType"] == "gpu"
    assert [worker["gpuUsage"] for worker in described["workers"]] == wanted
    assert [worker["gpu"] for worker in described["workers"]] == [True, True]


def test_answers_are_computed_on_a_gpu(server: Server) -> None:
    answers = [server.predict_soon("doubling", json=number) for number in range(64)]
    documents = [answer.result().json() for answer in answers]
    assert [document["doubled"] for document in documents] == [2.0 * n for n in range(64)]
    assert {document["device"] for document in documents} <= set(devices())


def test_a_version_is_checked_on_the_gpu_before_it_takes_traffic(server: Server) -> None:
    checks = [worker["selfCheck"] for worker in server.describe("doubling")["workers"]]
    assert checks == ["3 samples, max abs error 0"] * 2
    events = server.deploy("doubling", doubling(server.store, factor=3.0, version="wrong"))
    assert events[-1]["step"] == "failed"
    assert "does not compute what was recorded" in events[-1]["message"]
    assert server.predict("doubling", json=21).json()["doubled"] == 42


def test_a_killed_worker_comes_back_on_its_gpu(server: Server) -> None:
    first, second = server.pids("doubling")
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: len(server.pids("doubling")) == 2 and first not in server.pids("doubling"),
        what="the worker is replaced",
    )
    assert second in server.pids("doubling")
    assert server.describe("doubling")["workers"][0]["gpuUsage"] == "gpuId::0"
    assert server.predict("doubling", json=21).json()["doubled"] == 42
