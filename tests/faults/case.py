"""A case: something is done to a running server under load, and then everything must be as before.

A case is a function that gets a `Scene` and tells a story with it; what must come true on the way
it says with `scene.expect`. `run` judges the rest, which is the same for all: no request is lost,
the server is alive, nothing waits, no process is left over, the front has no more files and threads
than before, and the counters of /metrics equal the ledger.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from flambeau.archive_keys import SigningKey
from flambeau.archive_signing import sign_archive
from tests.faults.ledger import Ledger, Outcome, Row, Sent
from tests.faults.load import Load, Plan, document_of
from tests.faults.models import faulty_with
from tests.faults.verdict import Figure, Verdict
from tests.integration.server import PATIENCE_S, Server, wait_until

# of the event loop's default pool, which grows up to that and never shrinks
_POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
_REST_S = 5.0
NUM_WORKERS = 2
Story = Callable[..., None]  # of a scene, and of sizes by name


@dataclass(frozen=True, kw_only=True)
class Case:
    """A story with its name and sizes.

    Attributes:
        name: As docs/reliability.md lists it, e.g. `C2 retry on`.
        story: Tells it.
        whole: Its sizes for `make faults`.
        short: Those for the tests; None leaves it to `make faults`.
        is_own: Whether the story starts and ends a server of its own.
        num_seeds: How often `make faults` runs it.
    """

    name: str
    story: Story
    whole: Mapping[str, Any]
    short: Mapping[str, Any] | None
    is_own: bool = False
    num_seeds: int = 3


@dataclass(frozen=True, slots=True)
class Rest:
    """What a front has while nothing is asked of it."""

    num_fds: int
    num_threads: int

    @classmethod
    def of(cls, process: psutil.Process) -> Rest:
        return cls(process.num_fds(), process.num_threads())


class Scene:
    """A server, the clients' ledger, and what a story says of them.

    Attributes:
        server: The server; a case with one of its own has none at first.
        store: Where archives are.
        seed: Of everything random.
        random: For the story's choices.
        ledger: What became of the requests.
        model: The name of the model that this run asks.
    """

    def __init__(self, name: str, *, server: Server | None, store: Path, seed: int) -> None:
        # for the life of the run
        self.store = store
        self.seed = seed
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.model = f"{name.replace(' ', '-').lower()}-{seed}-{time.monotonic_ns()}"
        self._server = server
        self._journal = store / f"{self.model}.journal"
        self.key: SigningKey | None = None  # signs its archives
        # so far
        self.recoveries_s: list[float] = []
        self.figures: list[Figure] = []
        self.broken: list[str] = []
        self.has_counters = True

    @property
    def server(self) -> Server:
        assert self._server is not None, "the case has not started its server"
        return self._server

    @property
    def front(self) -> psutil.Process:
        """The process that serves; what was started watches over it."""
        return self.server.front()

    @contextlib.contextmanager
    def on(self, server: Server) -> Generator[None]:
        """Let the story happen on this server."""
        self._server = server
        yield

    # what stories do

    def serve(
        self,
        *,
        yaml: str = "",
        workers: int = NUM_WORKERS,
        batch_size: int = 8,
        **options: str | bool,
    ) -> None:
        """Register version 1.0 of this run's model."""
        archive = self.archive("1.0", yaml=yaml, **options)
        response = self.server.register(archive, initial_workers=workers, batch_size=batch_size)
        assert response.status_code == 200, response.text
        if workers:
            self.send()  # the front's connections and threads are there from now on

    def archive(self, version: str, *, yaml: str = "", **options: str | bool) -> Path:
        """An archive of this run's model that journals its calls."""
        options = {"journal": str(self._journal), **options}
        path = faulty_with(self.store, self.model, version=version, yaml=yaml, **options)
        if self.key is not None:
            sign_archive(path, self.key)
        return path

    def load(self, num_requests: int, *, url: str | None = None, **plan: Any) -> Load:  # noqa: ANN401  # `Plan`'s
        """Clients that ask this run's model during the block."""
        wanted = Plan(model=self.model, num_requests=num_requests, **plan)
        seed = self.random.randrange(1 << 30)
        return Load(url or self.inference_url, wanted, seed=seed, ledger=self.ledger)

    @property
    def inference_url(self) -> str:
        return str(self.server.inference.base_url)

    def send(
        self,
        *,
        fault: str | None = None,
        work_ms: float = 0.0,
        nonce: int | None = None,
        again: Sent | None = None,
    ) -> Row:
        """Send one request and wait for its end.

        Args:
            fault: What it does to its worker.
            work_ms: How long the model works for it.
            nonce: Its number; None for the next one.
            again: Send this one once more; byte for byte, if the work is the same as well.
        """
        sent = again or Sent(
            nonce=self.ledger.next_nonce() if nonce is None else nonce,
            x=self.random.randrange(1_000_000),
            client=-1,
            fault=fault,
            at=time.monotonic(),
        )
        body = document_of(sent, work_ms=work_ms)
        try:
            return self.ledger.answered(sent, self.server.predict(self.model, json=body))
        except httpx.TransportError as error:
            return self.ledger.failed(sent, error)

    def pids(self) -> list[int]:
        """The processes of the model's workers that are ready."""
        return self.server.pids(self.model)

    def wait_workers(
        self,
        count: int = NUM_WORKERS,
        *,
        without: frozenset[int] = frozenset(),
        timeout_s: float = PATIENCE_S,
    ) -> None:
        """Wait until so many are ready, none of them of `without`; notes how long it took."""
        began_at = time.monotonic()

        def is_whole() -> bool:
            pids = self.pids()
            return len(pids) == count and not without & set(pids)

        what = f"{count} workers of {self.model} are ready"
        wait_until(is_whole, what=what, timeout_s=timeout_s)
        self.recoveries_s.append(time.monotonic() - began_at)

    def calls(self) -> list[list[int]]:
        """The nonces of each call of the model so far."""
        if not self._journal.exists():
            return []
        lines = self._journal.read_text().splitlines()
        return [[int(nonce) for nonce in line.split()] for line in lines]

    # what stories say

    def expect(self, holds: bool, what: str) -> None:  # noqa: FBT001  # reads as a sentence
        """A promise; it is broken unless it holds."""
        if not holds:
            self.broken.append(what)

    def expect_all_right(self, rows: list[Row] | None = None) -> None:
        """Every request, or each of these, was answered rightly."""
        rows = self.ledger.rows if rows is None else rows
        failed = [row for row in rows if row.outcome is not Outcome.RIGHT]
        seen = sorted({f"{row.outcome.value} {row.status} {row.why}" for row in failed})
        self.expect(not failed, f"{len(failed)} of {len(rows)} are not right: {seen[:3]}")

    def figure(self, name: str, value: float, *, at_most: float | None = None) -> None:
        """Something measured, and its bar where that depends on the machine."""
        self.figures.append(Figure(name=name, value=value, at_most=at_most))


def run(
    case: Case, sizes: Mapping[str, Any], *, server: Server | None, store: Path, seed: int
) -> Verdict:
    """Tell a case's story and judge it.

    Args:
        case: The case.
        sizes: Its whole or short ones, and what is to be broken to see whether it is found.
        server: A running server; None if the case starts its own.
        store: The server's model store.
        seed: For everything random.
    """
    scene = Scene(case.name, server=server, store=store, seed=seed)
    before = None if server is None else _rest_of(scene)
    try:
        case.story(scene, **sizes)
        if before is not None:
            _judge_rest(scene, before)
    except (TimeoutError, AssertionError, httpx.TransportError, psutil.Error) as error:
        scene.broken.append(f"{type(error).__name__}: {error}")
    finally:
        if server is not None:
            _unregister(scene)
    ledger = scene.ledger
    if ledger.lost:
        scene.broken.insert(0, f"{ledger.lost} requests are lost: {ledger.reasons()[:3]}")
    counts = ledger.counts()
    return Verdict(
        case=case.name,
        seed=seed,
        counts={outcome.value: counts[outcome] for outcome in Outcome},
        lost=ledger.lost,
        p99_ms=ledger.p99_ms,
        recover_s=max(scene.recoveries_s, default=0.0),
        figures=tuple(scene.figures),
        broken=tuple(scene.broken),
    )


def _rest_of(scene: Scene) -> Rest:
    scene.server.management.get("/models")  # so that the client's connections are open
    scene.server.inference.get("/ping")
    scene.server.metrics.get("/metrics")
    return Rest.of(scene.front)


def _judge_rest(scene: Scene, before: Rest) -> None:
    """What must hold at the end of every story on a server that goes on."""
    server, model = scene.server, scene.model
    scene.expect(server.inference.get("/livez").status_code == 200, "the server is not alive")
    if any(document["modelName"] == model for document in _models(scene)):
        scene.expect(scene.send().outcome is Outcome.RIGHT, "the model does not answer at the end")
    _expect_soon(scene, lambda: not any(server.samples("flambeau_queue_depth").values()),
                 "requests still wait at the end")  # fmt: skip
    if scene.has_counters:
        _judge_counters(scene)
    _unregister(scene)
    _expect_soon(scene, lambda: not _left_over(scene), "processes are left over")
    _expect_soon(scene, partial(_has_at_most, scene, before), f"the front has more than {before}")


def _has_at_most(scene: Scene, before: Rest) -> bool:
    now = Rest.of(scene.front)
    most = before.num_threads + _POOL_THREADS
    return now.num_fds <= before.num_fds and now.num_threads <= most


def _judge_counters(scene: Scene) -> None:
    """Right answers and errors are counted by the server as the clients counted them.

    An unknown model or version is nobody's request, so a 404 is in no counter of a model.
    """
    counts = scene.ledger.counts()
    answered = counts[Outcome.RIGHT] + counts[Outcome.WRONG]
    failed = sum(row.status != 404 for row in scene.ledger.of(Outcome.ERROR))

    def counted() -> tuple[float, float]:
        found = outcomes(scene.server, scene.model)
        errors = ("request_error", "overloaded", "worker_error")
        return found.get("ok", 0.0), sum(found.get(outcome, 0.0) for outcome in errors)

    wanted = (float(answered), float(failed))
    try:
        wait_until(lambda: counted() == wanted, what="counters", timeout_s=_REST_S)
    except TimeoutError:
        scene.broken.append(f"counted {counted()} answers and errors, the ledger has {wanted}")


def outcomes(server: Server, model: str) -> Mapping[str, float]:
    """What /metrics counts of a model's requests, by outcome, over all versions."""
    found: dict[str, float] = {}
    for labels, value in server.samples("flambeau_requests_total").items():
        pairs = dict(pair.split("=") for pair in labels.replace('"', "").split(","))
        if pairs["model"] == model:
            found[pairs["outcome"]] = found.get(pairs["outcome"], 0.0) + value
    return found


def _left_over(scene: Scene) -> list[psutil.Process]:
    """Workers of no registered model, and children that nobody has waited for."""
    documents = (scene.server.management.get(f"/models/{each['modelName']}/all").json()
                 for each in _models(scene))  # fmt: skip
    known = {w["pid"] for versions in documents for each in versions for w in each["workers"]}
    known |= {scene.front.pid}
    workers = [each for each in scene.server.workers() if each.pid not in known]
    return workers + [each for each in scene.front.children(recursive=True) if _is_zombie(each)]


def _is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return False


def _models(scene: Scene) -> list[dict[str, str]]:
    return list(scene.server.management.get("/models", params={"limit": 1000}).json()["models"])


def _unregister(scene: Scene) -> None:
    """Take the run's model out, all versions of it."""
    path = f"/models/{scene.model}"
    versions = scene.server.management.get(f"{path}/all")
    if versions.status_code != 200:
        return
    default = scene.server.describe(scene.model)["modelVersion"]
    others = {each["modelVersion"] for each in versions.json()} - {default}
    for version in (*others, default):
        scene.server.management.delete(f"{path}/{version}")
    wait_until(
        lambda: scene.server.management.get(path).status_code == 404,
        what=f"{scene.model} is unregistered",
        timeout_s=PATIENCE_S,
    )


def _expect_soon(scene: Scene, condition: Callable[[], bool], what: str) -> None:
    try:
        wait_until(condition, what=what, timeout_s=_REST_S)
    except TimeoutError:
        scene.broken.append(what)
