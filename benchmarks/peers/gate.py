"""Right answers come first: a server that gives others is not timed."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx

from benchmarks.peers.running import PeerFailedError, RunningPeer, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.peers.work import Prepared

READY_TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.01
CLIENTS: Final = 16
SMALL: Final = 1e-5


def wait_answering(server: RunningPeer, prepared: Prepared, *, only_top: bool = False) -> None:
    """Wait for the first right answer to the first body.

    Raises:
        PeerFailedError: There was none in time.
    """
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    with _client(prepared) as client:
        said = "nothing"
        while True:
            try:
                answer = client.post(server.launch.url, content=prepared.bodies[0].read_bytes())
                if answer.status_code == 200:
                    _judge(answer.content, prepared, 0, only_top=only_top)
                    return
                said = f"{answer.status_code} {answer.text[:300]}"
            except httpx.TransportError as error:
                said = type(error).__name__  # not listening yet
            wait_until(server, said=said, give_up_at=give_up_at, poll_s=POLL_S)


def check(server: RunningPeer, prepared: Prepared, *, only_top: bool = False) -> None:
    """Ask for all bodies, several at a time so that they are batched, and compare the answers.

    Args:
        server: One that is ready.
        prepared: The work it does.
        only_top: Compare the most probable class and no more, for numerics that may differ.

    Raises:
        PeerFailedError: An answer is wrong, or there is none.
    """

    def ask(body: bytes) -> httpx.Response:
        return client.post(server.launch.url, content=body)

    with _client(prepared) as client, ThreadPoolExecutor(CLIENTS) as clients:
        for _ in range(2):
            bodies = (path.read_bytes() for path in prepared.bodies)
            answers = clients.map(ask, bodies)
            for place, answer in enumerate(answers):
                if answer.status_code != 200:
                    raise PeerFailedError(f"answers {answer.status_code}: {answer.text[:300]}")
                _judge(answer.content, prepared, place, only_top=only_top)


def difference(
    answer: object, expected: object, *, tolerance: float, only_top: bool = False
) -> str | None:
    """What is wrong with an answer; None when nothing is.

    Args:
        answer: Numbers, nested or not, or a number for each of some labels.
        expected: Numbers, or a number for every label.
        tolerance: Relative.
        only_top: Look at the largest only.
    """
    if isinstance(expected, dict):
        if not isinstance(answer, dict) or not answer or not answer.keys() <= expected.keys():
            return f"expected labels with shares, not {answer!r:.200}"
        if _top(answer) != _top(expected):
            return f"the best label is {_top(answer)!r}, expected {_top(expected)!r}"
        pairs = [(float(answer[label]), float(expected[label])) for label in answer]
    else:
        got, wanted = _flat(answer), _flat(expected)
        if len(got) != len(wanted):
            return f"{len(got)} numbers, expected {len(wanted)}: {answer!r:.200}"
        if got.index(max(got)) != wanted.index(max(wanted)):
            return "the largest number is not where it was expected"
        pairs = list(zip(got, wanted, strict=True))
    if only_top:
        return None
    wrong = [p for p in pairs if not math.isclose(*p, rel_tol=tolerance, abs_tol=SMALL)]
    return f"{wrong[0][0]!r}, expected {wrong[0][1]!r}" if wrong else None


def _client(prepared: Prepared) -> httpx.Client:
    return httpx.Client(
        headers={"content-type": prepared.content_type},
        timeout=30,
        trust_env=False,
    )


def _judge(content: bytes, prepared: Prepared, place: int, *, only_top: bool) -> None:
    try:
        answer = json.loads(content)
    except ValueError:
        raise PeerFailedError(f"answers {content[:200]!r}, which is no JSON") from None
    wrong = difference(
        answer, prepared.expected[place], tolerance=prepared.tolerance, only_top=only_top
    )
    if wrong is not None:
        raise PeerFailedError(f"wrong answer to {prepared.bodies[place].name}: {wrong}")


def _top(shares: Mapping[str, Any]) -> str:
    return max(shares, key=lambda label: float(shares[label]))


def _flat(numbers: object) -> Sequence[float]:
    if isinstance(numbers, list):
        return [number for part in numbers for number in _flat(part)]
    return [float(numbers)] if isinstance(numbers, (int, float)) else []
