"""Whether two servers gave the same answer: what is looked at, what is masked, and the verdict.

    verdict = judge(request, theirs, ours, scenario="predictions", known=KNOWN_DIFFERENCES)

Looked at are the status, the words after it, every header that a client can rely on, the body and
its chunks. JSON may differ in numbers by a tolerance. What differs from run to run is masked
on both sides; `masking.py` says what that is.
"""

from __future__ import annotations

import enum
import http
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import Final

from flambeau.torchserve.exchange import Answer, Request
from flambeau.torchserve.masking import masked

RELATIVE_TOLERANCE: Final = 1e-3
ABSOLUTE_TOLERANCE: Final = 1e-5

_IGNORED_HEADERS: Final = {"date", "server", "content-length", "transfer-encoding"}
_PRESENCE_ONLY: Final = {"x-request-id"}
_ABSENT: Final = object()


class Outcome(enum.Enum):
    """What a comparison found."""

    EQUAL = "equal"
    KNOWN = "known difference"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownDifference:
    """A difference that is meant.

    Attributes:
        id: Its name in docs/migrating.md.
        reason: Why, in one sentence.
        exchanges: Patterns of `scenario/request name` that show it.
        parts: Patterns of what may differ: `status`, `reason`, `header NAME`, `body`, `body PATH`
            (a place in JSON, e.g. `body 0.workers.*`), `layout`, `chunks`.
        theirs: Patterns of their side, one of which must match.
        ours: The same for our side.
        our_status: The status that we must have answered; None for any.
    """

    id: str
    reason: str
    parts: tuple[str, ...]
    exchanges: tuple[str, ...] = ("*",)
    theirs: tuple[str, ...] = ("*",)
    ours: tuple[str, ...] = ("*",)
    our_status: int | None = None

    def covers(self, where: str, difference: Difference, *, our_status: int) -> bool:
        """Whether a difference of an exchange is this one."""
        return (
            self.our_status in {None, our_status}
            and _matches(where, self.exchanges)
            and _matches(difference.part, self.parts)
            and _matches(difference.theirs, self.theirs)
            and _matches(difference.ours, self.ours)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One part of an answer in which the servers differ."""

    part: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"{self.part}: theirs {_short(self.theirs)}, ours {_short(self.ours)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found for one exchange.

    Attributes:
        where: `scenario/request name`.
        outcome: Equal, meant, or neither.
        differences: What differs and is not meant.
        known: The meant differences that it shows.
    """

    where: str
    outcome: Outcome
    differences: tuple[Difference, ...] = ()
    known: tuple[KnownDifference, ...] = ()


def judge(
    request: Request,
    theirs: Answer,
    ours: Answer,
    *,
    scenario: str,
    known: Sequence[KnownDifference] = (),
) -> Verdict:
    """Compare two answers to one request."""
    where = f"{scenario}/{request.name}"
    unexpected: list[Difference] = []
    shown: dict[str, KnownDifference] = {}
    for difference in differences(request, theirs, ours):
        meant = next(
            (each for each in known if each.covers(where, difference, our_status=ours.status)),
            None,
        )
        if meant is None:
            unexpected.append(difference)
        else:
            shown[meant.id] = meant
    outcome = Outcome.KNOWN if shown else Outcome.EQUAL
    return Verdict(
        where=where,
        outcome=Outcome.UNEXPECTED if unexpected else outcome,
        differences=tuple(unexpected),
        known=tuple(shown.values()),
    )


def differences(request: Request, theirs: Answer, ours: Answer) -> list[Difference]:
    """In what two answers to one request differ."""
    theirs, ours = masked(request, theirs), masked(request, ours)
    found: list[Difference] = []

    def note(part: str, one: object, other: object) -> None:
        if one != other:
            found.append(Difference(part=part, theirs=str(one), ours=str(other)))

    note("status", theirs.status, ours.status)
    if request.view == "status":
        return found
    note("reason", _reason(theirs), _reason(ours))
    their_headers, our_headers = _headers(theirs), _headers(ours)
    for name in sorted(their_headers.keys() | our_headers.keys()):
        note(f"header {name}", their_headers.get(name), our_headers.get(name))
    note("cut off", theirs.cut_off, ours.cut_off)
    note("chunked", theirs.chunks is not None, ours.chunks is not None)
    if theirs.chunks is not None and ours.chunks is not None:
        note("chunks", theirs.chunks, ours.chunks)
    found += _body_differences(theirs.body, ours.body)
    return found


def _reason(answer: Answer) -> str:
    """Without words, the standard's; clients cannot tell them apart by intent."""
    try:
        return answer.reason or http.HTTPStatus(answer.status).phrase
    except ValueError:
        return answer.reason


def _headers(answer: Answer) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        key = name.lower()
        if key in _PRESENCE_ONLY:
            headers[key] = "present"
        elif key not in _IGNORED_HEADERS:
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
    if answer.status:
        headers.setdefault("connection", "keep-alive")  # what HTTP/1.1 means without it
    return headers


def _body_differences(theirs: bytes, ours: bytes) -> list[Difference]:
    if theirs == ours:
        return []
    different = Difference(
        part="body", theirs=theirs.decode(errors="replace"), ours=ours.decode(errors="replace")
    )
    try:
        one, other = json.loads(theirs), json.loads(ours)
    except ValueError:
        return [different]
    if found := list(_json_differences(one, other)):
        return found
    same_layout = _without_numbers(theirs) == _without_numbers(ours)
    return [] if same_layout else [replace(different, part="layout")]


def _json_differences(one: object, other: object, path: str = "") -> Iterator[Difference]:
    """One difference per place; numbers may differ by the tolerance."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _json_differences(
                one.get(key, _ABSENT), other.get(key, _ABSENT), f"{path}.{key}"
            )
    elif isinstance(one, list) and isinstance(other, list):
        for index, (left, right) in enumerate(zip_longest(one, other, fillvalue=_ABSENT)):
            yield from _json_differences(left, right, f"{path}.{index}")
    elif not _is_close(one, other):
        part = f"body {path.removeprefix('.')}".rstrip()
        yield Difference(part=part, theirs=_shown(one), ours=_shown(other))


def _is_close(one: object, other: object) -> bool:
    if isinstance(one, float) and type(other) in {int, float}:
        assert isinstance(other, (int, float))
        both_nan = math.isnan(one) and math.isnan(other)
        tolerances = {"rel_tol": RELATIVE_TOLERANCE, "abs_tol": ABSOLUTE_TOLERANCE}
        return both_nan or math.isclose(one, other, **tolerances)
    return type(one) is type(other) and one == other


def _shown(value: object) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _without_numbers(body: bytes) -> bytes:
    return re.sub(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", b"0", body)


def _short(text: str) -> str:
    return repr(text) if len(text) < 300 else f"{text[:300]!r}..."
