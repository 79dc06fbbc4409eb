"""Stories about clients and what is between them and the server: C9, C10 and C13."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack

from benchmarks.figures import percentile
from tests.faults.case import NUM_WORKERS, Scene, outcomes
from tests.faults.ledger import Outcome
from tests.faults.proxied import proxied
from tests.faults.proxy import Fault
from tests.integration.server import wait_until

_WORK_MS = 100
_QUEUE_SIZE = 10
_CLIENT_TIMEOUT_MS = 1000
_CLOSED_SOON_S = 11.0  # the deadline for a request's head, and one second


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
    scene.figure("p99_503_ms", percentile(times_ms, 99), at_most=50)
    scene.figure("p99_accepted_ms", scene.ledger.p99_ms, at_most=_CLIENT_TIMEOUT_MS)
    scene.figure("longest_queue", longest_queue, at_most=_QUEUE_SIZE)


def slow_clients(
    scene: Scene, *, num_sockets: int, num_requests: int, are_closed_soon: bool
) -> None:
    """C10: sockets that send nothing, half a head, half a body, or do not read. Good ones go on.

    Args:
        scene: Where.
        num_sockets: How many of them.
        num_requests: Of good clients, a half of them before the sockets are opened.
        are_closed_soon: Whether to wait until the server has closed them.
    """
    scene.serve()
    with scene.load(num_requests // 2):
        pass
    before_ms = scene.ledger.p99_ms
    num_before = len(scene.ledger.rows)
    with ExitStack() as stack:
        opened_at = time.monotonic()
        slow = [stack.enter_context(_slow_socket(scene, place)) for place in range(num_sockets)]
        with scene.load(num_requests // 2):
            pass
        if are_closed_soon:
            with contextlib.suppress(TimeoutError):
                wait_until(
                    lambda: all(_is_closed(each) for each in slow),
                    what="slow clients are hung up on",
                    timeout_s=_CLOSED_SOON_S - (time.monotonic() - opened_at),
                )
            still_open = sum(not _is_closed(each) for each in slow)
            scene.figure("slow_sockets_still_open", still_open, at_most=0)
    scene.expect_all_right()
    times_ms = [row.took_s * 1000 for row in scene.ledger.rows[num_before:]]
    scene.figure("p99_among_slow_by_p99", percentile(times_ms, 99) / before_ms, at_most=2)


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


def bad_network(scene: Scene, *, fault: Fault, num_requests: int, is_admitted: bool = True) -> None:
    """C13: between the clients and the server, the network is slow, or breaks off.

    Args:
        scene: Where.
        fault: What is wrong with it.
        num_requests: Through it.
        is_admitted: Whether the ledger knows that connections are cut; else cuts count as lost.
    """
    scene.serve()
    cuts = fault.cut_after_bytes is not None or fault.half_close
    scene.has_counters = not cuts  # what was answered into a broken line, nobody knows
    url = scene.server.inference.base_url
    num_before = len(scene.ledger.rows)
    with ExitStack() as stack:
        port = stack.enter_context(proxied((url.host, url.port or 0), fault))
        if cuts and is_admitted:
            stack.enter_context(scene.ledger.cutting())
        with scene.load(num_requests, url=f"http://127.0.0.1:{port}"):
            pass
    rows = scene.ledger.rows[num_before:]
    right = sum(row.outcome is Outcome.RIGHT for row in rows)
    if not cuts:
        scene.expect_all_right(rows)
    scene.expect(not scene.ledger.of(Outcome.ERROR), "errors on a bad line")
    if fault.half_close:  # the whole request is there, and so is the way back
        scene.figure("unanswered", len(rows) - right, at_most=0)
    else:
        scene.expect(right > 0, "nothing came through")


NETWORK_FAULTS: Mapping[str, Fault] = {
    "latency": Fault(latency_s=0.2),
    "10 kB per s": Fault(bytes_per_s=10_000),
    "cut off": Fault(cut_after_bytes=1_000),
    "reset": Fault(cut_after_bytes=1_000, reset=True),
    "half-close": Fault(half_close=True),
    "1-byte fragments": Fault(fragment_bytes=1),
}
