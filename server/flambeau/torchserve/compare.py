"""Whether two servers gave the same answer: what is looked at, what is masked, and the verdict.

    verdict = judge(request, theirs, ours, scenario="predictions", known=KNOWN_DIFFERENCES)

Looked at are the status, the words after it, every header that a client can rely on, the body and
its chunks. JSON may differ in numbers by a tolerance. What differs from run to run (ids, times,
process ids, ports, memory, host names) is masked on both sides.
"""

from __future__ import annotations

import enum
import http
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from flambeau.torchserve.exchange import Answer, Request

RELATIVE_TOLERANCE: Final = 1e-3
ABSOLUTE_TOLERANCE: Final = 1e-5

_IGNORED_HEADERS: Final = {"date", "server", "content-length", "transfer-encoding"}
_PRESENCE_ONLY: Final = {"x-request-id"}
_VOLATILE_KEYS: Final = {
    "pid": 0,
    "memoryUsage": 0,
    "startTime": "<time>",
    "created": 0,
    "gpuUsage": "<gpu usage>",
    "createdOn": "<time>",
}
_UUID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_HEX_ID: Final = re.compile(r"\b[0-9a-f]{32}\b")
_OWN_DIRECTORY: Final = re.compile(r"/tmp/ts-[a-z0-9_]+")  # noqa: S108  # a pattern, not a file
_HOST_LABEL: Final = re.compile(r'(hostname|Hostname)="[^"]*"')
_COUNTED: Final = ("ts_inference_requests_total",)  # series whose values are the same in each run


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
        parts: What may differ: `status`, `reason`, `body`, `layout`, `chunks`, `header NAME`.
        status: Our status where it differs; None when it does not.
        body: A text that our body holds; empty for any.
    """

    id: str
    reason: str
    exchanges: tuple[str, ...]
    parts: tuple[str, ...]
    status: int | None = None
    body: str = ""

    def covers(self, where: str, differences: Sequence[Difference], ours: Answer) -> bool:
        """Whether these differences of an exchange are meant."""
        return (
            any(fnmatchcase(where, pattern) for pattern in self.exchanges)
            and all(difference.part in self.parts for difference in differences)
            and (self.status is None or self.status == ours.status)
            and self.body in ours.body.decode(errors="replace")
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
        differences: What differs; none when equal.
        known: The difference that covers them, if one does.
    """

    where: str
    outcome: Outcome
    differences: tuple[Difference, ...] = ()
    known: KnownDifference | None = None


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
    found = tuple(differences(request, theirs, ours))
    if not found:
        return Verdict(where=where, outcome=Outcome.EQUAL)
    for each in known:
        if each.covers(where, found, ours):
            return Verdict(where=where, outcome=Outcome.KNOWN, differences=found, known=each)
    return Verdict(where=where, outcome=Outcome.UNEXPECTED, differences=found)


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


def masked(request: Request, answer: Answer, *, values: Mapping[str, str] | None = None) -> Answer:
    """The answer without what differs from run to run; masking twice changes nothing.

    Args:
        request: What it answers.
        answer: What came.
        values: The values of tags; each is replaced by its tag again.
    """
    text = answer.body.decode("latin-1")
    for name, value in sorted((values or {}).items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"<<{name}>>")
    text = _UUID.sub("<uuid>", text)
    text = _OWN_DIRECTORY.sub("<directory>", text)
    text = _HEX_ID.sub("<id>", text)
    view = _VIEWS.get(request.view or "")
    text = _mask_json(text) if view is None else view(text)
    headers = tuple((name, _UUID.sub("<uuid>", value)) for name, value in answer.headers)
    return replace(answer, body=text.encode("latin-1"), headers=headers, duration_s=0.0)


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
    if not is_close(one, other):
        return [different]
    same_layout = _without_numbers(theirs) == _without_numbers(ours)
    return [] if same_layout else [replace(different, part="layout")]


def is_close(one: Any, other: Any) -> bool:  # noqa: ANN401  # two JSON values
    """Whether two JSON values are equal, numbers within the tolerance."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_close, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE) or (
            math.isnan(one) and math.isnan(other)
        )
    return type(one) is type(other) and bool(one == other)


def _without_numbers(body: bytes) -> bytes:
    return re.sub(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", b"0", body)


def _mask_json(text: str) -> str:
    """Volatile members of JSON, masked where they stand, so that the layout stays."""
    for key, value in _VOLATILE_KEYS.items():
        shown = json.dumps(value)
        text = re.sub(rf'("{key}"\s*:\s*)("(?:[^"\\]|\\.)*"|-?[\d.]+)', rf"\g<1>{shown}", text)
    return text


def _view_openapi(text: str) -> str:
    """Of an OpenAPI document: its title, and the name of each operation."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if "paths" not in document:
        return text
    operations = {
        path: {method: details.get("operationId") for method, details in sorted(item.items())}
        for path, item in sorted(document["paths"].items())
    }
    title = document.get("info", {}).get("title")
    return json.dumps({"info": {"title": title}, "paths": _with_operation_ids(operations)})


def _with_operation_ids(operations: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    return {
        path: {method: {"operationId": name} for method, name in methods.items()}
        for path, methods in operations.items()
    }


def _view_metrics(text: str) -> str:
    """Of a metrics page: its lines in order of name, without the values that vary."""
    lines = []
    for line in text.splitlines():
        masked_line = _HOST_LABEL.sub(r'\1="<host>"', line)
        if not line.startswith(("#", *_COUNTED)):
            masked_line = masked_line.rpartition(" ")[0] + " <value>"
        lines.append(masked_line)
    return "".join(f"{line}\n" for line in sorted(lines))


_VIEWS: Final[dict[str, Callable[[str], str]]] = {
    "openapi": _view_openapi,
    "metrics": _view_metrics,
}


def _short(text: str) -> str:
    return repr(text) if len(text) < 300 else f"{text[:300]!r}..."
