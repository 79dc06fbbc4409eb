"""C20: everything at once, for as long as is wanted."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

import psutil

from tests.faults.case import Scene
from tests.faults.ledger import Outcome
from tests.faults.stories_versions import deploy

KINDS = ("kill", "freeze", "swap", "bad_version", "poison", "slow_clients")
_MIB = 1 << 20
_SLOPE_MIB = 1.0  # per 10,000 requests, of G19
_NUM_TELLING = 50_000  # of fewer requests the slope is told, not judged; `make soak` has them


def mixed(
    scene: Scene,
    *,
    seconds: float,
    every_s: float,
    rate: float = 150.0,
    work_ms: float = 5.0,
    retry: bool = True,
    kinds: Sequence[str] = KINDS,
) -> None:
    """C20: every few seconds a kill, a swap, a poison, a bad version, slow clients or a SIGSTOP.

    All good requests are right, or told clearly that a worker was stuck.
    """
    yaml = f"responseTimeout: 1\nretry: {str(retry).lower()}\n"
    scene.serve(yaml=yaml)
    disturbances = _Disturbances(scene, yaml)
    sizes: list[tuple[int, int]] = []
    ends_at = time.monotonic() + seconds
    with (
        ExitStack() as stack,
        scene.load(0, rate=rate, work_ms=work_ms, max_s=2 * seconds + 60) as load,
    ):
        disturbances.stack = stack
        while time.monotonic() < ends_at:
            load.wait_ended(max(1, round(rate * every_s / 2)))
            getattr(disturbances, scene.random.choice(kinds))()
            scene.wait_workers()
            sizes.append((load.num_ended, scene.front.memory_info().rss))
    good = [row for row in scene.ledger.rows if row.sent.fault is None]
    failed = [row for row in good if row.outcome is Outcome.ERROR and row.status != 504]
    scene.expect(not failed, f"{len(failed)} good requests failed: { ({r.why for r in failed}) }")
    stuck = sum(row.status == 504 for row in good)
    scene.expect(stuck <= disturbances.num_frozen, f"{stuck} good requests ended with a 504")
    scene.figure("num_disturbances", len(sizes))
    is_long = len(good) >= _NUM_TELLING
    slope_mib = _slope_mib(sizes)
    scene.figure("rss_mib_per_10000", slope_mib, at_most=_SLOPE_MIB if is_long else None)


def _slope_mib(sizes: list[tuple[int, int]]) -> float:
    """Growth of the front per 10,000 requests over the last half, by least squares."""
    half = sizes[len(sizes) // 2 :]
    if len(half) < 2:
        return 0.0
    mean_n = sum(n for n, _ in half) / len(half)
    mean_size = sum(size for _, size in half) / len(half)
    spread = sum((n - mean_n) ** 2 for n, _ in half)
    slope = sum((n - mean_n) * (size - mean_size) for n, size in half) / max(spread, 1)
    return slope * 10_000 / _MIB


class _Disturbances:
    """What may happen to a server on a bad day."""

    def __init__(self, scene: Scene, yaml: str) -> None:
        self.num_frozen = 0
        self.stack = ExitStack()
        self._scene = scene
        self._yaml = yaml
        self._version = 1
        self._num_bad = 0

    def kill(self) -> None:
        os.kill(self._scene.random.choice(self._scene.pids()), signal.SIGKILL)

    def freeze(self) -> None:
        worker = psutil.Process(self._scene.random.choice(self._scene.pids()))
        worker.suspend()
        self.num_frozen += 1
        self._scene.wait_workers(without=frozenset({worker.pid}))

    def swap(self) -> None:
        self._version += 1
        deploy(self._scene, self._scene.archive(f"{self._version}.0", yaml=self._yaml))

    def bad_version(self) -> None:
        self._num_bad += 1
        archive = self._scene.archive(f"99.{self._num_bad}", load="raise")
        events = self._scene.server.deploy(self._scene.model, archive)
        self._scene.expect(
            events[-1]["step"] == "failed", "a version that cannot load was deployed"
        )

    def poison(self) -> None:
        row = self._scene.send(fault=self._scene.random.choice(("raise", "segfault", "os_exit")))
        self._scene.expect(row.outcome is Outcome.ERROR, f"a poisonous request ended as {row}")

    def slow_clients(self) -> None:
        url = self._scene.server.inference.base_url
        for _ in range(10):
            slow = self.stack.enter_context(socket.create_connection((url.host, url.port or 0)))
            slow.sendall(b"POST /predictions/x HTTP/1.1\r\n")
