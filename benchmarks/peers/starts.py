"""How soon a server answers, and what a further worker takes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

import httpx

from benchmarks import load
from benchmarks.peers import gate
from benchmarks.peers.bouts import started
from benchmarks.peers.peer import Variant
from benchmarks.peers.plan import SCALED_TO, SCALED_WORK, STARTED_PEERS, STARTED_WORKS
from benchmarks.peers.results import Absence, Scaling, Start
from benchmarks.peers.running import PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.plan import Plan
    from benchmarks.peers.results import Results
    from benchmarks.peers.running import RunningPeer
    from benchmarks.peers.work import Prepared

WORKER_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.01
ALL_ANSWER_S: Final = 3
REST_S: Final = 4.0  # servers may give memory back that they do not need; Flambeau after 2 s


def measure(prepared: Prepared, plan: Plan, results: Results, *, save: Callable[[], None]) -> None:
    """Add what is missing in the results for one work."""
    peers = [peer for peer in STARTED_PEERS if peer in plan.peers]
    if prepared.name in STARTED_WORKS:
        done = {(each.round, each.work, each.peer) for each in results.starts}
        for number in range(1, plan.num_rounds + 1):
            for peer in peers:
                if (number, prepared.name, peer) not in done:
                    _attempt(_start, peer, prepared, results, number=number)
                    save()
    if prepared.name == SCALED_WORK:
        for peer in peers:
            if not any(
                (each.work, each.peer) == (prepared.name, peer) for each in results.scalings
            ):
                _attempt(_scale, peer, prepared, results, number=1)
                save()


def _attempt(
    step: Callable[[str, Prepared, Results, int], None],
    peer: str,
    prepared: Prepared,
    results: Results,
    *,
    number: int,
) -> None:
    try:
        step(peer, prepared, results, number)
    except (PeerFailedError, httpx.HTTPError) as error:
        _say(f"{prepared.name}: {peer}: {error}")
        results.add_absence(
            Absence(work="start", peer=peer, variant=Variant.TUNED, reason=str(error))
        )


def _start(peer: str, prepared: Prepared, results: Results, number: int) -> None:
    started_at = time.perf_counter()
    with started(peer, prepared, variant=Variant.TUNED) as server:
        gate.wait_answering(server, prepared)
        seconds = time.perf_counter() - started_at
    results.starts.append(
        Start(round=number, work=prepared.name, peer=peer, seconds=round(seconds, 3))
    )
    _say(f"{prepared.name}: {peer} answers after {seconds:.2f} s")


def _scale(peer: str, prepared: Prepared, results: Results, number: int) -> None:
    """One worker after the other; memory is looked at when all have worked, and then rested."""
    del number
    with started(peer, prepared, variant=Variant.TUNED) as server:
        gate.wait_answering(server, prepared)
        for num_workers in range(1, SCALED_TO + 1):
            seconds = 0.0 if num_workers == 1 else _add_worker(server, num_workers)
            load.measure(
                server.launch.url,
                body=prepared.bodies,
                connections=16 * num_workers,
                seconds=ALL_ANSWER_S,
                content_type=prepared.content_type,
            )
            time.sleep(REST_S)
            pss_bytes = server.workers_pss_bytes()
            results.scalings.append(
                Scaling(
                    work=prepared.name,
                    peer=peer,
                    num_workers=num_workers,
                    seconds=round(seconds, 3),
                    pss_bytes=pss_bytes,
                )
            )
            _say(f"    {peer}, worker {num_workers}: {seconds:.2f} s, {pss_bytes / 2**20:.0f} MiB")


def _add_worker(server: RunningPeer, num_workers: int) -> float:
    """Ask for one more worker as TorchServe's clients do; seconds until it is ready."""
    url = f"{server.launch.management_url}/models/model"
    started_at = time.perf_counter()
    with httpx.Client(timeout=WORKER_TIMEOUT_S, trust_env=False) as client:
        client.put(
            url, params={"min_worker": num_workers, "max_worker": num_workers}
        ).raise_for_status()
        while True:
            workers = client.get(url).json()[0]["workers"]
            if sum(worker["status"] == "READY" for worker in workers) >= num_workers:
                return time.perf_counter() - started_at
            if time.perf_counter() > started_at + WORKER_TIMEOUT_S:
                raise PeerFailedError(f"worker {num_workers} is not ready in {WORKER_TIMEOUT_S} s")
            time.sleep(POLL_S)


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)
