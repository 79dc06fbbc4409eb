"""Stories about clients and what is between them and the server: C9, C10 and C13."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack

from benchmarks.figures import percentile
from tests.faults.case import NUM_WORKERS, Scene, outcomes
from tests.faults.ledger import Outcome
from tests.faults.proxied import proxied
from tests.faults.proxy import Fault
from tests.integration.server import Server, wait_until

_WORK_MS = 100
_QUEUE_SIZE = 10
_CLIENT_TIMEOUT_MS = 1000
_SHED_MS = 50
CLOSED_SOON_S = 11.0  # the deadline for a request's head, and one second
_LOGGED_S = 2.0
_LOOK_S = 0.1
_HEAD = re.compile(rb"\?nonce=(\d+) HTTP/1\.1\r\n.*?\r\n\r\n", re.DOTALL)


def overloaded(scene: Scene, *, seconds: float, queue_size: int = _QUEUE_SIZE) -> None:
    """C9: three times as many requests as the workers can do. Each is right, or told to come back.

    Args:
        scene: Where.
        seconds: How long.
        queue_size: What the model's YAML lets wait; `_QUEUE_SIZE` is promised.
    """
    timeout = f"jobQueueSize: {queue_size}\nclientTimeoutInMills: {_CLIENT_TIMEOUT_MS}\n"
    scene.serve(yaml=timeout, batch_size=1)
    rate = 3 * NUM_WORKERS * 1000 / _WORK_MS
    longest_queue = 0.0
    with scene.load(round(rate * seconds), rate=rate, is_open=True, work_ms=_WORK_MS) as load:
        for _ in range(5):
            load.wait_ended(round(rate * seconds / 10))
            longest_queue = max(
                longest_queue, *scene.server.samples("flambeau_queue_depth").values()
            )
    shed = scene.ledger.of(Outcome.ERROR)
    silent = [row for row in shed if row.status != 503 or row.retry_after is None]
    scene.expect(not silent, f"{len(silent)} of {len(shed)} refusals are no 503 with Retry-After")
    scene.expect(len(shed) > 0, "nothing was refused")
    scene.expect(longest_queue <= _QUEUE_SIZE, f"{longest_queue:g} requests waited")
    times_ms = [row.took_s * 1000 for row in shed] or [0.0]
    scene.figure("p99_503_ms", percentile(times_ms, 99), at_most=_SHED_MS)
    # of that, between reading the request and writing the answer
    scene.figure("p99_503_in_server_ms", _p99_in_server_ms(scene, status=503), at_most=_SHED_MS)
    scene.figure("p99_accepted_ms", scene.ledger.p99_ms, at_most=_CLIENT_TIMEOUT_MS)
    scene.figure("longest_queue", longest_queue, at_most=_QUEUE_SIZE)


def _p99_in_server_ms(scene: Scene, *, status: int) -> float:
    """From the access log; 0 if nothing was answered so."""
    path = f"/predictions/{scene.model}"
    lines = (line for line in scene.server.stderr.so_far() if f'"path": "{path}"' in line)
    records = [json.loads(line) for line in lines]
    return percentile([r["duration_ms"] for r in records if r.get("status") == status] or [0.0], 99)


def slow_clients(
    scene: Scene,
    *,
    pairs: int,
    num_sockets: int,
    num_requests: int,
    closed_within_s: float | None,
) -> None:
    """C10: sockets that send nothing, half a head, half a body, or do not read. Good ones go on.

    Args:
        scene: Where.
        pairs: Of phases, one without the sockets and one with them.
        num_sockets: How many of them.
        num_requests: Of good clients in each phase.
        closed_within_s: When the server must have closed those that owe it a head, once it has let
            all in; `CLOSED_SOON_S` is promised. None does not wait for it.
    """
    scene.serve()
    without_ms: list[float] = []
    among_ms: list[float] = []
    for pair in range(pairs):
        without_ms.append(_p99_ms(scene, num_requests))
        with ExitStack() as stack:
            slow = [stack.enter_context(_slow_socket(scene, place)) for place in range(num_sockets)]
            _wait_quiet(scene)
            all_in_at = time.monotonic()
            among_ms.append(_p99_ms(scene, num_requests))
            if closed_within_s is not None and pair == pairs - 1:
                owe_heads = [each for place, each in enumerate(slow) if place % 4 < 2]
                _expect_closed(scene, owe_heads, by=all_in_at + closed_within_s)
                scene.figure("slow_closed_s", time.monotonic() - all_in_at)
    scene.expect_all_right()
    ratio = statistics.median(among_ms) / statistics.median(without_ms)
    scene.figure("p99_among_slow_by_p99", ratio, at_most=2)


def _p99_ms(scene: Scene, num_requests: int) -> float:
    num_before = len(scene.ledger.rows)
    with scene.load(num_requests):
        pass
    return scene.ledger.p99_ms_since(num_before)


def _wait_quiet(scene: Scene) -> None:
    """Wait until the front has done all that it can for those who do not read."""

    def is_quiet() -> bool:
        used = scene.front.cpu_times().user
        time.sleep(_LOOK_S)
        return bool(scene.front.cpu_times().user - used < _LOOK_S / 5)

    wait_until(is_quiet, what="the front has nothing to do")


def _expect_closed(scene: Scene, slow: list[socket.socket], *, by: float) -> None:
    with contextlib.suppress(TimeoutError):
        wait_until(
            lambda: all(_is_closed(each) for each in slow),
            what="slow clients are hung up on",
            timeout_s=by - time.monotonic(),
        )
    still_open = sum(not _is_closed(each) for each in slow)
    scene.expect(not still_open, f"{still_open} of {len(slow)} slow clients are still in")


@contextlib.contextmanager
def _slow_socket(scene: Scene, place: int) -> Generator[socket.socket]:
    """One of four kinds."""
    head = f"POST /predictions/{scene.model} HTTP/1.1\r\nhost: x\r\n".encode()
    whole = head + b"content-type: application/json\r\ncontent-length: 900\r\n\r\n"
    sent = (b"", head, whole + b'{"x": 1', b"GET /api-description HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
    url = scene.server.inference.base_url
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.setblocking(False)  # noqa: FBT003  # socket's own signature
        connection.send(sent[place % len(sent)])
        yield connection


def _is_closed(connection: socket.socket) -> bool:
    """Whether the server has ended its side; what it has sent is thrown away."""
    try:
        while data := connection.recv(1 << 16):
            del data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def clients_leave(scene: Scene, *, num_leaving: int, num_requests: int, times: int = 1) -> None:
    """C10: clients that leave before their answer. Nobody notices, and nothing runs twice.

    Args:
        scene: Where.
        num_leaving: How many of them.
        num_requests: Of good clients.
        times: How often each of the others is sent; more than once is what must be found.
    """
    scene.serve()
    url = scene.server.inference.base_url
    nonces = [-place for place in range(1, num_leaving + 1)]
    with scene.load(num_requests, work_ms=5) as load:
        for nonce in nonces * times:
            body = b'{"x": 1, "nonce": %d, "work_ms": 5}' % nonce
            with socket.create_connection((url.host, url.port or 0)) as connection:
                connection.sendall(
                    b"POST /predictions/%b HTTP/1.1\r\nhost: x\r\n"
                    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (scene.model.encode(), len(body), body)
                )
                if scene.random.random() < 0.1:
                    load.wait_ended(1)
    scene.expect_all_right()
    # an answer that was written before its client left counts as given, so only the sum is known
    scene.has_counters = False
    num_counted = sum(outcomes(scene.server, scene.model).values())
    num_sent = len(scene.ledger.rows) + num_leaving
    scene.expect(num_counted <= num_sent, f"{num_counted:g} requests counted of {num_sent}")
    executed = [sum(call.count(nonce) for call in scene.calls()) for nonce in nonces]
    most = max(executed)
    scene.expect(most <= 1, f"a request whose client left was executed {most} times")
    scene.figure("executed_in_vain", sum(executed))


def bad_network(
    scene: Scene,
    *,
    fault: Fault,
    num_requests: int,
    is_admitted: bool = True,
    log: Callable[[Server], list[str]] = lambda server: server.stderr.so_far(),
) -> None:
    """C13: between the clients and the server, the network is slow, or breaks off.

    Args:
        scene: Where.
        fault: What is wrong with it.
        num_requests: Through it.
        is_admitted: Whether the ledger knows that connections are cut; else cuts count as lost.
        log: What the server has logged.
    """
    scene.serve()
    cuts = fault.cut_after_bytes is not None
    scene.has_counters = not cuts  # what was answered into a broken line, nobody knows
    url = scene.server.inference.base_url
    num_before = len(scene.ledger.rows)
    with ExitStack() as stack:
        proxy = stack.enter_context(proxied((url.host, url.port or 0), fault))
        if cuts and is_admitted:
            stack.enter_context(scene.ledger.cutting())
        with scene.load(
            num_requests,
            url=f"http://127.0.0.1:{proxy.port}",
            names_nonces=True,
            # nothing more can be sent on what is half closed
            keeps_connections=not fault.half_close,
        ):
            pass
    rows = scene.ledger.rows[num_before:]
    if not cuts:
        scene.expect_all_right(rows)
    scene.expect(not scene.ledger.of(Outcome.ERROR), "errors on a bad line")
    scene.expect(any(row.outcome is Outcome.RIGHT for row in rows), "nothing came through")
    _expect_a_line_each(scene, proxy.passed, lambda: log(scene.server))


def _expect_a_line_each(
    scene: Scene, passed: list[bytearray], log: Callable[[], list[str]]
) -> None:
    """Each request that has reached the server is in its access log once, cut off or not."""
    reached = Counter(nonce for sent in passed for nonce in _HEAD.findall(sent))
    where = f"/predictions/{scene.model}?nonce="

    def logged() -> Counter[bytes]:
        paths = (json.loads(line).get("path", "") for line in log() if where in line)
        return Counter(path.removeprefix(where).encode() for path in paths)

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: logged() == reached, what="each is logged", timeout_s=_LOGGED_S)
    found = logged()
    scene.figure("reached_the_server", reached.total())
    missing, more = reached - found, found - reached
    scene.expect(not missing, f"{missing.total()} of {reached.total()} requests are not logged")
    scene.expect(not more, f"{more.total()} lines too many in the access log")


NETWORK_FAULTS: Mapping[str, Fault] = {
    "latency": Fault(latency_s=0.2),
    "10 kB per s": Fault(bytes_per_s=10_000),
    "cut off": Fault(cut_after_bytes=1_000),
    "reset": Fault(cut_after_bytes=1_000, reset=True),
    "half-close": Fault(half_close=True),
    "1-byte fragments": Fault(fragment_bytes=1),
}
