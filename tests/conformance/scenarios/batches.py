"""Requests that share a handler call, a stream or a sequence, and queues that are full."""

from __future__ import annotations

from typing import Final

from flambeau.torchserve.exchange import Headers, Request
from tests.conformance.scenario import Scenario, ask, do, infer, manage

_TEXT: Final = (("Content-Type", "text/plain"),)


_BATCHED = tuple(
    infer(name, "/predictions/batched", word, headers=_TEXT, together=together)
    for name, word, together in (
        ("one of three", "a", "all well"),
        ("two of three", "b", "all well"),
        ("three of three", "c", "all well"),
        ("plain beside a teapot", "a", "teapot"),
        ("teapot", "teapot", "teapot"),
        ("other beside a teapot", "b", "teapot"),
        ("innocent beside an exception", "a", "exception"),
        ("exception", "raise", "exception"),
        ("other beside an exception", "b", "exception"),
        ("innocent beside a refusal", "a", "refusal"),
        ("refusal", "refuse", "refusal"),
        ("other beside a refusal", "b", "refusal"),
        ("first of a short answer", "short", "short"),
        ("second of a short answer", "a", "short"),
        ("third of a short answer", "b", "short"),
    )
)

_STREAMED = (
    ask("stream of three parts", "/predictions/streaming", {"parts": 3}),
    ask("stream of one part", "/predictions/streaming", {"parts": 1, "last": "end"}),
    ask("no stream", "/predictions/streaming", {"parts": 0}),
    ask("stream of objects", "/predictions/streaming",
        {"parts": 2, "part": {"token": 1}, "last": {"done": True}}),
    ask("stream with an empty end", "/predictions/streaming", {"parts": 2, "last": ""}),
    ask("stream that breaks", "/predictions/streaming", {"parts": 3, "raise_after": 1}),
    ask("stream after the one that broke", "/predictions/streaming", {"parts": 1}),
    ask("stream of a version", "/predictions/streaming/1.0", {"parts": 2}),
)  # fmt: skip


def _counted(name: str, sequence: str, *, start: bool = False, end: bool = False) -> Request:
    headers: Headers = (("ts_request_sequence_id", sequence),)
    headers += (("ts_request_sequence_start", "true"),) if start else ()
    headers += (("ts_request_sequence_end", "true"),) if end else ()
    return infer(name, "/predictions/counting", b"x", headers=headers)


_SEQUENCES = (
    _counted("sequence begins", "s1", start=True),
    _counted("sequence goes on", "s1"),
    _counted("another sequence begins", "s2", start=True),
    _counted("sequence goes on beside another", "s1"),
    _counted("sequence ends", "s1", end=True),
    _counted("another sequence ends", "s2", end=True),
    _counted("sequence that was not begun", "s9"),
)

_QUEUES = (
    do("one at a time", {"do": "echo", "value": "free"}, model="crowded"),
    manage("describe one at a time", "GET", "/models/crowded"),
)  # fmt: skip

SCENARIOS = (
    Scenario(
        name="batches",
        archives=("batched", "streaming", "counting", "crowded"),
        models=("batched.mar", "streaming.mar", "counting.mar", "crowded.mar"),
        requests=_BATCHED + _STREAMED + _SEQUENCES + _QUEUES,
        timeout_s=15,
    ),
)
