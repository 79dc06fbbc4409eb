"""Stories about workers: C1, C2, C4 and C14."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack

import psutil

from benchmarks.figures import percentile
from tests.faults.case import NUM_WORKERS, Scene
from tests.faults.ledger import Outcome
from tests.faults.load import NUM_CLIENTS

BATCH_SIZE = 8
# of G6: calls that a poisonous request may be part of, when it raises and when it ends its worker
_CALLS_OF_A_RAISE = 7
_CALLS_OF_A_CRASH = BATCH_SIZE + 1
_RESTARTS_PER_POISON = 2
_WORK_MS = 20
_SPINS = 0.8  # of a core; what cannot accept and asks again and again takes all of it


def nothing_happens(scene: Scene, *, num_requests: int, mixes_up: bool = False) -> None:
    """C1: the baseline. All are right."""
    scene.serve(mixes_up=mixes_up)
    with scene.load(num_requests):
        pass
    scene.expect_all_right()


def workers_killed(
    scene: Scene, *, kills: int, per_kill: int, retry: bool, promised_retry: bool | None = None
) -> None:
    """C2: `kill -9` of one of two workers, at random moments.

    Args:
        scene: Where.
        kills: How often.
        per_kill: Requests for each, on average more than half of them before it.
        retry: What the model's YAML says.
        promised_retry: What is held against it; the same unless told otherwise.
    """
    scene.serve(yaml=f"retry: {str(retry).lower()}\n")
    with scene.load(kills * per_kill, work_ms=_WORK_MS) as load:
        for _ in range(kills):
            load.wait_ended(scene.random.randrange(per_kill // 4, per_kill))
            pid = scene.random.choice(scene.pids())
            os.kill(pid, signal.SIGKILL)
            scene.wait_workers(without=frozenset({pid}))
    if retry if promised_retry is None else promised_retry:
        scene.expect_all_right()
    failed = scene.ledger.of(Outcome.ERROR)
    scene.expect(len(failed) <= BATCH_SIZE * kills, f"{len(failed)} failed of {kills} kills")
    texts = {row.why for row in failed}
    scene.expect(texts <= {"Worker died."}, f"requests of killed workers end with {texts}")
    scene.figure("recover_p95_s", percentile(scene.recoveries_s, 95), at_most=3.0)


def poisonous_requests(
    scene: Scene, *, fault: str, poisons: int, goods: int, retry: bool = True
) -> None:
    """C4: some requests fail their batch, or end their worker. Neighbours are right.

    The same one again, while it is quarantined, costs no worker.
    """
    yaml = f"responseTimeout: 1\nretry: {str(retry).lower()}\n"
    scene.serve(yaml=yaml)
    places = frozenset(scene.random.sample(range(poisons + goods), poisons))
    with scene.load(poisons + goods, work_ms=_WORK_MS, fault=fault, poisonous=places):
        pass
    scene.wait_workers()
    rows = scene.ledger.rows
    scene.expect_all_right([row for row in rows if row.sent.fault is None])
    poisoned = [row for row in rows if row.sent.fault is not None]
    wrong = [row for row in poisoned if row.outcome is not Outcome.ERROR]
    scene.expect(not wrong, f"{len(wrong)} of {len(poisoned)} poisonous requests are no errors")
    # one that hung with a worker of its own has ended only one; two are the proof
    scene.send(again=poisoned[-1].sent, work_ms=_WORK_MS)
    scene.wait_workers()
    _count_cost(scene, {row.sent.nonce for row in poisoned})
    restarts = num_restarts(scene)
    repeated = scene.send(again=poisoned[-1].sent, work_ms=_WORK_MS)
    scene.wait_workers()
    is_refused = repeated.status == 422 or not restarts
    scene.expect(is_refused, f"what ended two workers was answered with {repeated.status}")
    scene.expect(num_restarts(scene) == restarts, "what ended two workers has ended a third")


def _count_cost(scene: Scene, nonces: set[int]) -> None:
    """Executions and restarts per poisonous request, held against G6."""
    calls = [sum(nonce in call for call in scene.calls()) for nonce in sorted(nonces)]
    restarts = num_restarts(scene)
    most = _CALLS_OF_A_CRASH if restarts else _CALLS_OF_A_RAISE
    scene.expect(max(calls) <= most, f"one poisonous request was part of {max(calls)} calls")
    scene.expect(
        restarts <= _RESTARTS_PER_POISON * len(nonces),
        f"{restarts:g} restarts for {len(nonces)} poisonous requests",
    )
    scene.figure("calls_per_poison", max(calls), at_most=most)
    scene.figure("restarts_per_poison", restarts / len(nonces), at_most=_RESTARTS_PER_POISON)


def num_restarts(scene: Scene) -> float:
    """Workers of the run's model replaced so far."""
    samples = scene.server.samples("flambeau_worker_restarts_total")
    return sum(value for labels, value in samples.items() if f'model="{scene.model}"' in labels)


def workers_stuck(scene: Scene, *, fault: str, times: int, per_fault: int) -> None:
    """C14: a request floods the log, opens too many files, or never gives the interpreter back.

    Only that one may fail.
    """
    scene.serve(yaml="responseTimeout: 1\n")
    with scene.load(times * per_fault, work_ms=5) as load:
        for _ in range(times):
            load.wait_ended(scene.random.randrange(per_fault // 4, per_fault))
            scene.send(fault=fault)
            scene.wait_workers()
    scene.expect_all_right([row for row in scene.ledger.rows if row.sent.fault is None])


def workers_frozen(
    scene: Scene,
    *,
    times: int,
    per_freeze: int,
    response_timeout_s: int = 1,
    patience_s: float = 30.0,
) -> None:
    """C14: SIGSTOP of a worker. It is replaced; what it held runs again, or ends as a 504."""
    scene.serve(yaml=f"responseTimeout: {response_timeout_s}\n")
    # resumed before the load ends, or what a frozen one holds would be waited for
    with scene.load(times * per_freeze, work_ms=5) as load, ExitStack() as stack:
        for _ in range(times):
            load.wait_ended(scene.random.randrange(per_freeze // 4, per_freeze))
            worker = psutil.Process(scene.random.choice(scene.pids()))
            worker.suspend()
            stack.callback(_resume, worker)
            scene.wait_workers(without=frozenset({worker.pid}), timeout_s=patience_s)
    failed = scene.ledger.of(Outcome.ERROR)
    others = [row for row in failed if row.status != 504]
    scene.expect(not others, f"{len(others)} errors of a frozen worker are no 504")
    scene.expect(len(failed) <= times, f"{len(failed)} errors for {times} frozen workers")


def _resume(process: psutil.Process) -> None:
    if process.is_running():
        process.resume()


def front_out_of_files(
    scene: Scene, *, num_sockets: int, num_requests: int, num_good: int = NUM_CLIENTS
) -> None:
    """C14: more connections than the front may have files. Those that it has go on.

    Args:
        scene: Where.
        num_sockets: Connections that are tried.
        num_requests: Of the clients whose connections it has.
        num_good: Clients that come before the others; if none do, that must be found.
    """
    scene.serve()
    front = scene.front
    limits = front.rlimit(psutil.RLIMIT_NOFILE)
    with ExitStack() as stack:
        load = scene.load(num_requests)
        if num_good:
            stack.enter_context(load)
            load.wait_ended(num_requests // 4)
        front.rlimit(psutil.RLIMIT_NOFILE, (front.num_fds() + num_sockets // 2, limits[1]))
        stack.callback(front.rlimit, psutil.RLIMIT_NOFILE, limits)
        url = scene.server.inference.base_url
        for _ in range(num_sockets):
            stack.enter_context(socket.create_connection((url.host, url.port or 0)))
        if not num_good:
            stack.enter_context(load)
        load.wait_ended(num_requests // 4)
        began_at, used = time.monotonic(), front.cpu_times().user
        load.wait_ended(num_requests // 4)
        share = (front.cpu_times().user - used) / (time.monotonic() - began_at)
        scene.figure("front_cpu_share", share, at_most=_SPINS)
    scene.expect_all_right()
    assert len(scene.pids()) == NUM_WORKERS
