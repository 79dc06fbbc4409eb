"""Stories about the server's own end: C3 and C5. Each has a server of its own."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

import httpx

from tests.faults.case import NUM_WORKERS, Scene
from tests.faults.ledger import Outcome, Row
from tests.integration.server import Server, running_server, wait_until

GRACE_S = 10.0
_READY_S = 5.0
_TOLD = {408, 503}  # the first one where a request crosses with the end of its connection
_LONG_MS = 2000


def terminated(
    scene: Scene,
    *,
    meanwhile: str,
    num_requests: int = 200,
    grace_s: float = GRACE_S,
    number: signal.Signals = signal.SIGTERM,
) -> None:
    """C5: SIGTERM. What was accepted is answered, then the process ends with 0.

    Args:
        scene: Where.
        meanwhile: `nothing`, `a long request`, `half-open sockets`, `loading`, `swapping` or
            `second signal`.
        num_requests: Before and after, together.
        grace_s: What the server is told to grant; `GRACE_S` is promised.
        number: The signal.
    """
    flags = ("--drain-timeout-s", f"{grace_s:g}")
    with running_server(scene.store, *flags) as server, scene.on(server), ExitStack() as stack:
        scene.serve()
        _begin(meanwhile, scene, stack)
        long = None
        with scene.load(num_requests, work_ms=5) as load:
            load.wait_ended(num_requests // 2)
            if meanwhile in ("a long request", "second signal"):
                long = _ask_long(scene)
            may_end_from = scene.ledger.cut_from_now()
            asked_at = time.monotonic()
            server.stop(number)
            if meanwhile == "second signal":
                stack.enter_context(scene.ledger.cutting())
                wait_until(partial(_is_stopping, server), what="it is stopping")
                server.stop(number)
            code = server.wait_ended()
            took_s = time.monotonic() - asked_at
        scene.expect(code == 0, f"exit code {code}")
        scene.figure("exit_s", took_s, at_most=GRACE_S + 1)
        rows = scene.ledger.rows + ([long.result()] if long is not None else [])
        if meanwhile != "second signal":
            scene.expect_all_right(
                [r for r in rows if r.outcome is not Outcome.CUT and r.sent.at < may_end_from]
            )
            broken_off = [r for r in scene.ledger.of(Outcome.CUT) if not r.is_refused]
            scene.figure("broken_off_after_the_signal", len(broken_off), at_most=0)
        later = [row for row in scene.ledger.of(Outcome.ERROR) if row.status not in _TOLD]
        scene.expect(not later, f"{len(later)} requests after the signal ended with other errors")
        server.expected_exit_code = code


def _begin(meanwhile: str, scene: Scene, stack: ExitStack) -> None:
    """Bring the server into the state in which the signal meets it."""
    server = scene.server
    if meanwhile == "half-open sockets":
        url = server.inference.base_url
        for sent in (b"", b"POST /predictions/x HTTP/1.1\r\nhost", b"GET /ping HTTP/1.1\r\n"):
            half = stack.enter_context(socket.create_connection((url.host, url.port or 0)))
            half.sendall(sent)
    if meanwhile in ("loading", "swapping"):
        name = scene.model if meanwhile == "swapping" else f"{scene.model}-other"
        archive = scene.archive("2.0", load="hang")
        call = server.deploy if meanwhile == "swapping" else server.register
        arguments = (name, archive) if meanwhile == "swapping" else (archive,)
        server.in_thread(partial(_try, call, *arguments))
        wait_until(lambda: len(server.workers()) > NUM_WORKERS, what="another worker is loading")


def _try(call: object, *arguments: object) -> None:
    """Call it; the server ends meanwhile, so any answer will do, or none."""
    assert callable(call)
    try:
        call(*arguments)
    except (httpx.TransportError, AssertionError):
        return


def _ask_long(scene: Scene) -> Future[Row]:
    """A request of 2 seconds, once it has reached a worker."""
    nonce = scene.ledger.next_nonce()
    long = scene.server.in_thread(lambda: scene.send(nonce=nonce, work_ms=_LONG_MS))
    wait_until(
        lambda: any(nonce in call for call in scene.calls()), what="the long request is running"
    )
    return long


def _is_stopping(server: Server) -> bool:
    return server.management.get("/readyz").status_code == 503


def front_killed(
    scene: Scene, *, kills: int, per_kill: int, kill_all: bool = False, ready_within_s: float = 20.0
) -> None:
    """C3: `kill -9` of the front. It comes back on its ports, with the models it had.

    A dead process cannot answer: what it was asked is cut, and only that.
    """
    state = scene.store / f"{scene.model}.db"  # else earlier runs' models come back, too
    with (
        running_server(scene.store, "--state-file", str(state)) as server,
        scene.on(server),
    ):
        scene.serve()
        scene.has_counters = False  # they begin anew with each front
        # what arrives while nobody listens waits at the ports, which stay open
        with scene.load(kills * per_kill, deadline_s=ready_within_s) as load:
            for _ in range(kills):
                load.wait_ended(scene.random.randrange(per_kill // 4, per_kill))
                workers = frozenset(scene.pids())
                with scene.ledger.cutting():
                    began_at = time.monotonic()
                    scene.front.kill()
                    if kill_all:
                        server.stop(signal.SIGKILL)
                        server.expected_exit_code = -signal.SIGKILL
                    wait_until(
                        partial(_are_gone, server, workers),
                        what="the old workers are gone",
                        timeout_s=2,
                    )
                    wait_until(
                        partial(_is_ready, scene),
                        what="it is ready again",
                        timeout_s=ready_within_s,
                    )
                    scene.wait_workers(without=workers)
                scene.recoveries_s.append(time.monotonic() - began_at)
        errors = [row for row in scene.ledger.of(Outcome.ERROR) if row.retry_after is None]
        scene.expect(not errors, f"{len(errors)} errors without a Retry-After")
        scene.figure("ready_s", max(scene.recoveries_s), at_most=_READY_S)


def _are_gone(server: Server, pids: frozenset[int]) -> bool:
    """Whether they run no more; some may still wait for process 1 to take note of their end."""
    return not any(process.pid in pids for process in server.processes())


def _is_ready(scene: Scene) -> bool:
    try:
        return scene.server.management.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
