"""Stories about one model's trouble and another one's clients: C21."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
from collections import Counter
from collections.abc import Generator

import uvloop

from benchmarks.open_loop import Answered, at_rate
from tests.faults.case import Scene
from tests.faults.models import faulty
from tests.integration.server import wait_until

# handlers wait and do not compute, so that two models, the server and its clients fit on two cores
_WORK_MS = 20
_RATE = 50.0  # of the clients who should notice nothing
_FLOOD_WORK_MS = 10
_FLOOD_RATE = 3 * 1000 / _FLOOD_WORK_MS
_FLOOD_CONNECTIONS = 64
_QUEUE_SIZE = 10  # of the flooded model, else it refuses nobody for a while
_MOST_RESTARTS = 5
_SHARE = 1.5  # of G7


def flooded(scene: Scene, *, pairs: int, seconds: float, on_itself: bool = False) -> None:
    """C21: three times as many requests for one model as it can do. Another one's go on.

    Args:
        scene: Where.
        pairs: Of phases, one without the flood and one with it.
        seconds: Of each phase.
        on_itself: Flood the very model whose clients should notice nothing: that must be found.
    """
    yaml = f"jobQueueSize: {_QUEUE_SIZE}\n"
    scene.serve(yaml=yaml if on_itself else "", workers=1, batch_size=1)
    found: Counter[int] = Counter()
    p99s_ms: dict[bool, list[float]] = {False: [], True: []}
    with _another(scene, yaml=yaml) as other:
        url = f"{scene.inference_url}/predictions/{scene.model if on_itself else other}"
        for _ in range(pairs):
            p99s_ms[False].append(_p99_ms(scene, seconds))
            with _flood(url, found):
                p99s_ms[True].append(_p99_ms(scene, seconds))
    scene.has_counters = not on_itself
    scene.expect_all_right()
    scene.expect(set(found) == {200, 503}, f"the flood was answered with {dict(found)}")
    scene.figure("flood_per_s", found.total() / pairs / seconds)
    scene.figure("flood_refused_per_s", found[503] / pairs / seconds)
    _tell_share(scene, p99s_ms[False], p99s_ms[True])


def crash_looping(
    scene: Scene, *, loops: int, seconds: float, most_crashes: int = 1000, patience_s: float = 30.0
) -> None:
    """C21: a model whose worker ends again and again. It is given up; another one's clients go on.

    Args:
        scene: Where.
        loops: How often; in between, somebody scales the model up again.
        seconds: Of each phase without one.
        most_crashes: Requests that end its worker; too few are what must be found.
        patience_s: Until it is given up.
    """
    scene.serve(workers=1, batch_size=1)
    p99s_ms: dict[bool, list[float]] = {False: [], True: []}
    restarts: list[float] = []
    with _another(scene) as other:
        for _ in range(loops):
            p99s_ms[False].append(_p99_ms(scene, seconds))
            before = _restarts(scene, other)
            num_before = len(scene.ledger.rows)
            with scene.load(1, rate=_RATE, work_ms=_WORK_MS):
                _crash_until_given_up(scene, other, at_most=most_crashes, patience_s=patience_s)
            p99s_ms[True].append(scene.ledger.p99_ms_since(num_before))
            restarts.append(_restarts(scene, other) - before)
            _scale_up(scene, other)
    scene.expect_all_right()
    scene.expect(max(restarts) <= _MOST_RESTARTS, f"{max(restarts):g} restarts in a minute")
    scene.figure("restarts", max(restarts), at_most=_MOST_RESTARTS)
    _tell_share(scene, p99s_ms[False], p99s_ms[True])


def _tell_share(scene: Scene, without_ms: list[float], with_ms: list[float]) -> None:
    """The medians of the phases' p99s, and how they compare."""
    without, with_it = statistics.median(without_ms), statistics.median(with_ms)
    scene.figure("p99_without_ms", without)
    scene.figure("p99_with_ms", with_it)
    scene.figure("p99_with_by_without", with_it / without, at_most=_SHARE)


def _p99_ms(scene: Scene, seconds: float) -> float:
    """What the other model's clients see for so long."""
    num_before = len(scene.ledger.rows)
    with scene.load(round(_RATE * seconds), rate=_RATE, work_ms=_WORK_MS):
        pass
    return scene.ledger.p99_ms_since(num_before)


@contextlib.contextmanager
def _another(scene: Scene, *, yaml: str = "") -> Generator[str]:
    """The name of a second model with one worker, which is removed in the end."""
    name = f"{scene.model}-other"
    archive = faulty(scene.store, name, yaml=yaml)
    response = scene.server.register(archive, initial_workers=1, batch_size=1)
    assert response.status_code == 200, response.text
    yield name
    scene.server.management.delete(f"/models/{name}")


@contextlib.contextmanager
def _flood(url: str, found: Counter[int]) -> Generator[None]:
    """Requests at `_FLOOD_RATE` during the block; counts their statuses, 0 for none."""
    body = b'{"x": 1, "nonce": 1, "work_ms": %d}' % _FLOOD_WORK_MS
    head = (
        f"POST /{url.split('/', 3)[3]} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    answers: list[Answered] = []
    is_over = threading.Event()

    async def run() -> None:
        answers.extend(
            await at_rate(
                url,
                head.encode() + body,
                rate=_FLOOD_RATE,
                connections=_FLOOD_CONNECTIONS,
                until=asyncio.to_thread(is_over.wait),
            )
        )

    thread = threading.Thread(target=lambda: uvloop.run(run()))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    found.update(answer.status for answer in answers)


def _crash_until_given_up(scene: Scene, model: str, *, at_most: int, patience_s: float) -> None:
    """Send requests that end the model's worker, each another one, until it gets no new one."""
    server = scene.server

    def is_given_up() -> bool:
        return bool(server.describe(model)["status"] == "failed")

    for nonce in range(at_most):
        if is_given_up():
            break
        server.predict(
            model, json={"x": len(scene.ledger.rows), "nonce": nonce, "fault": "os_exit"}
        )
    wait_until(is_given_up, what=f"{model} is given up", timeout_s=patience_s)


def _restarts(scene: Scene, model: str) -> float:
    samples = scene.server.samples("flambeau_worker_restarts_total")
    return sum(value for labels, value in samples.items() if f'model="{model}"' in labels)


def _scale_up(scene: Scene, model: str) -> None:
    response = scene.server.management.put(f"/models/{model}?min_worker=1&synchronous=true")
    assert response.status_code == 200, response.text
