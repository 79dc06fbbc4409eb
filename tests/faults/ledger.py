"""What became of every request that was sent: each ends in exactly one class.

    R  right: 2xx, the answer is f(nonce) and names the version that computed it
    E  clear error: a documented status, the body {"code", "type", "message"}, a request id
    W  wrong: 2xx, but another answer
    U  unclear: anything else, or nothing by the client's deadline
    C  cut: refused at connect, or broken off while the test itself held the line cut

    lost = sent - R - E - C

so wrong and unclear requests are lost. `classify_answer` and `classify_failure` decide; they know
nothing of the server but its documented errors.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import httpx

from benchmarks.figures import percentile

# what docs/operations.md promises for a prediction
DOCUMENTED = frozenset({400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503, 504, 507})
_ON_ITS_WAY_S = 0.05  # a request may take that long to reach the server, which then knows of it
_OUR_MISTAKE = "the server made a mistake"  # a 500 that says no more than that is no clear error


class Outcome(Enum):
    RIGHT = "R"
    ERROR = "E"
    WRONG = "W"
    UNCLEAR = "U"
    CUT = "C"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A request as it was sent; times are of `time.monotonic`.

    Attributes:
        nonce: Its own number.
        x: What the model doubles.
        client: Who sent it; each has one connection.
        fault: What it does to its worker; None if it is a good one.
        at: When.
    """

    nonce: int
    x: int
    client: int
    fault: str | None
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A request and its end.

    Attributes:
        sent: The request.
        ended_at: When.
        outcome: Its class.
        status: The answer's; 0 without one.
        version: What answered; empty without an answer of a model.
        retry_after: The header, if any.
        why: What is wrong, for people.
    """

    sent: Sent
    ended_at: float
    outcome: Outcome
    status: int = 0
    version: str = ""
    retry_after: str | None = None
    why: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_at - self.sent.at

    @property
    def is_refused(self) -> bool:
        """Whether nobody listened."""
        return self.outcome is Outcome.CUT and self.why.startswith(httpx.ConnectError.__name__)


class Answer(Protocol):
    """What is judged of an HTTP answer; `httpx.Response` has it."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


class Ledger:
    """The rows of one run of one case."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._cut_times: list[tuple[float, float]] = []
        self._ending_at = float("inf")
        self._nonces = itertools.count(1)

    def next_nonce(self) -> int:
        """A number that no other request of the run has."""
        return next(self._nonces)

    def counts(self) -> Counter[Outcome]:
        """Rows by class."""
        return Counter(row.outcome for row in self.rows)

    @property
    def lost(self) -> int:
        counts = self.counts()
        kept = (Outcome.RIGHT, Outcome.ERROR, Outcome.CUT)
        return len(self.rows) - sum(counts[outcome] for outcome in kept)

    @property
    def p99_ms(self) -> float:
        """Of the right answers; 0 without any."""
        times = [row.took_s * 1000 for row in self.rows if row.outcome is Outcome.RIGHT]
        return percentile(times, 99) if times else 0.0

    def p99_ms_since(self, num_rows: int) -> float:
        """Of everything sent, whatever became of it, after there were so many rows."""
        return percentile([row.took_s * 1000 for row in self.rows[num_rows:]], 99)

    def of(self, *outcomes: Outcome) -> list[Row]:
        """The rows of some classes."""
        return [row for row in self.rows if row.outcome in outcomes]

    def reasons(self) -> list[str]:
        """Why requests are lost: each reason once, the most frequent first."""
        lost = self.of(Outcome.WRONG, Outcome.UNCLEAR)
        return [f"{count} x {why}" for why, count in Counter(r.why for r in lost).most_common()]

    @contextmanager
    def cutting(self) -> Generator[None]:
        """While in the block, it is the test that breaks connections, those in use as well."""
        began_at = time.monotonic()
        self._cut_times.append((began_at, float("inf")))
        try:
            yield
        finally:
            self._cut_times[-1] = (began_at, time.monotonic())

    def cut_from_now(self) -> float:
        """What is sent from now on may be cut; what was sent before may not.

        Returns:
            From which moment on; a request that has just been sent is on its way still.
        """
        self._ending_at = time.monotonic() - _ON_ITS_WAY_S
        return self._ending_at

    def answered(self, sent: Sent, answer: Answer) -> Row:
        """Note an answer."""
        return self._noted(classify_answer(sent, answer, ended_at=time.monotonic()))

    def failed(self, sent: Sent, error: httpx.TransportError) -> Row:
        """Note that there was none."""
        now = time.monotonic()
        is_cut = sent.at >= self._ending_at or any(
            begin <= now and sent.at <= end for begin, end in self._cut_times
        )
        return self._noted(classify_failure(sent, error, ended_at=now, is_cut=is_cut))

    def _noted(self, row: Row) -> Row:
        self.rows.append(row)
        return row


def classify_answer(sent: Sent, answer: Answer, *, ended_at: float) -> Row:
    """The row of a request that was answered."""

    def row(outcome: Outcome, why: str = "", *, version: str = "") -> Row:
        return Row(
            sent=sent,
            ended_at=ended_at,
            outcome=outcome,
            status=status,
            version=version,
            retry_after=answer.headers.get("retry-after"),
            why=why,
        )

    status = answer.status_code
    document = _object_of(answer.content)
    if 200 <= status < 300:
        right = {"y": 2 * sent.x + sent.nonce, "nonce": sent.nonce}
        version = answer.headers.get("x-model-version", "")
        if document != right | {"version": version} or not version:
            return row(Outcome.WRONG, f"{answer.content[:100]!r} instead of {right}")
        return row(Outcome.RIGHT, version=version)
    why = _unclear(status, document, answer.headers)
    return row(Outcome.UNCLEAR, why) if why else row(Outcome.ERROR, str(document["message"]))


def classify_failure(
    sent: Sent, error: httpx.TransportError, *, ended_at: float, is_cut: bool
) -> Row:
    """The row of a request without an answer.

    Args:
        sent: The request.
        error: What its client saw.
        ended_at: When.
        is_cut: Whether the test itself broke connections at some moment in between.
    """
    is_refused = isinstance(error, httpx.ConnectError)
    in_time = not isinstance(error, httpx.TimeoutException)
    outcome = Outcome.CUT if is_refused or (is_cut and in_time) else Outcome.UNCLEAR
    why = f"{type(error).__name__}: {error}"
    return Row(sent=sent, ended_at=ended_at, outcome=outcome, why=why)


def _object_of(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _unclear(status: int, document: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """What keeps an answer from being a clear error; empty if nothing does."""
    if status not in DOCUMENTED:
        return f"status {status} is not documented"
    if document.get("code") != status:
        return f"status {status} without a body that says so: {document}"
    texts = (document.get("type"), document.get("message"))
    if not all(isinstance(text, str) and text for text in texts):
        return f"status {status} without type and message: {document}"
    if _OUR_MISTAKE in str(document["message"]):
        return f"status {status}: {document['message']}"
    if not headers.get("x-request-id"):
        return f"status {status} without a request id"
    return ""
