"""A machine whose time is set back and forth while requests are answered."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.archives import service
from tests.integration.server import running_server, wait_until

pytestmark = pytest.mark.slow

# read by every Python process of the server before anything else
JUMPING = """
import random
import time

really, day_s = time.time, 86400.0
time.time = lambda: really() + random.choice((-day_s, 0.0, day_s))
"""
YAML = (
    "batchSize: 4\nmaxBatchDelay: 20\nresponseTimeout: 30\nclientTimeoutInMills: 30000\n"
    "minWorkers: 2\nmaxWorkers: 2\n"
)


def test_a_clock_that_jumps_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, site = tmp_path / "store", tmp_path / "site"
    for directory in (store, site):
        directory.mkdir()
    (site / "sitecustomize.py").write_text(JUMPING)
    monkeypatch.setenv("PYTHONPATH", str(site))
    service(store, "echo", yaml=YAML)
    with running_server(store, models=["echo=echo-1.0.mar"]) as server:
        pid, *_ = server.pids("echo")
        answers = [server.predict_soon("echo", json={"n": n}) for n in range(100)]
        os.kill(pid, signal.SIGKILL)
        answers += [server.predict_soon("echo", json={"n": n}) for n in range(100)]
        assert {answer.result().status_code for answer in answers} == {200}
        wait_until(lambda: len(server.pids("echo")) == 2, what="the worker is replaced")
        times = [datetime.fromisoformat(record["time"].rstrip("Z")) for record in server.records()]
    assert max(times) - min(times) > timedelta(days=1), "the clock did not jump"
