from __future__ import annotations

import json

import pytest

from flambeau.torchserve.compare import KnownDifference, Outcome, differences, judge
from flambeau.torchserve.exchange import Answer, Request
from flambeau.torchserve.launch import Port
from flambeau.torchserve.masking import masked

REQUEST = Request(name="one", port=Port.INFERENCE, method="GET", target="/")


def answer(document: object, *, status: int = 200, **headers: str) -> Answer:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status=status, headers=pairs, body=json.dumps(document).encode())


def parts(theirs: Answer, ours: Answer) -> list[str]:
    return [each.part for each in differences(REQUEST, theirs, ours)]


def test_equal_answers_do_not_differ() -> None:
    assert parts(answer({"a": 1}), answer({"a": 1})) == []


def test_numbers_may_differ_a_little() -> None:
    assert parts(answer([0.123456]), answer([0.123457])) == []
    assert parts(answer([0.12]), answer([0.13])) == ["body 0"]
    assert parts(answer([1]), answer([2])) == ["body 0"]


def test_a_difference_in_json_is_named_by_its_place() -> None:
    theirs, ours = answer({"a": [{"b": 1}], "c": 2}), answer({"a": [{"b": 3}]})
    found = differences(REQUEST, theirs, ours)
    assert [(each.part, each.theirs, each.ours) for each in found] == [
        ("body a.0.b", "1", "3"),
        ("body c", "2", "absent"),
    ]


def test_json_that_is_laid_out_otherwise_differs() -> None:
    compact = Answer(status=200, body=b'{"a": 1}')
    assert parts(compact, Answer(status=200, body=b'{\n  "a": 1\n}')) == ["layout"]


def test_what_differs_from_run_to_run_does_not_count() -> None:
    theirs = answer({"pid": 1, "startTime": "a"}, x_request_id="1", date="now")
    ours = answer({"pid": 2, "startTime": "b"}, x_request_id="2", server="mine")
    assert parts(theirs, ours) == []


def test_a_header_that_only_one_has_differs() -> None:
    assert parts(answer(1, ts_stream_next="true"), answer(1)) == ["header ts-stream-next"]


def test_no_connection_header_means_that_it_stays_open() -> None:
    assert parts(answer(1, connection="keep-alive"), answer(1)) == []
    assert parts(answer(1, connection="close"), answer(1)) == ["header connection"]


def test_words_of_the_standard_need_not_be_sent() -> None:
    theirs, ours = Answer(status=404, reason=""), Answer(status=404, reason="Not Found")
    assert parts(theirs, ours) == []
    assert parts(theirs, Answer(status=404, reason="Gone away")) == ["reason"]


def test_chunks_are_compared() -> None:
    theirs = Answer(status=200, body=b"abc", chunks=(1, 2))
    assert parts(theirs, Answer(status=200, body=b"abc", chunks=(2, 1))) == ["chunks"]
    assert parts(theirs, Answer(status=200, body=b"abc")) == ["chunked"]


def test_masking_twice_changes_nothing() -> None:
    once = masked(
        REQUEST, answer({"pid": 1, "path": "/tmp/x", "key": "s3cret"}), values={"k": "s3cret"}
    )
    assert b"<<k>>" in once.body
    assert masked(REQUEST, once, values={"k": "s3cret"}) == once


def test_a_metrics_page_is_compared_by_its_series() -> None:
    request = Request(name="m", port=Port.METRICS, method="GET", target="/metrics", view="metrics")
    theirs = Answer(status=200, body=b'# TYPE a gauge\na{Hostname="x",} 1.0\n')
    ours = Answer(status=200, body=b'a{Hostname="y",} 2.0\n# TYPE a gauge\nb 1.0\n')
    assert [each.part for each in differences(request, theirs, ours)] == ["body b"]


@pytest.mark.parametrize(
    ("known", "outcome"),
    [
        (KnownDifference(id="k", reason="", parts=("status",)), Outcome.KNOWN),
        (KnownDifference(id="k", reason="", parts=("body*",)), Outcome.UNEXPECTED),
        (KnownDifference(id="k", reason="", parts=("*",), exchanges=("s/o*",)), Outcome.KNOWN),
        (KnownDifference(id="k", reason="", parts=("*",), exchanges=("t/*",)), Outcome.UNEXPECTED),
        (KnownDifference(id="k", reason="", parts=("*",), ours=("201",)), Outcome.UNEXPECTED),
        (KnownDifference(id="k", reason="", parts=("*",), our_status=202), Outcome.KNOWN),
    ],
)
def test_a_known_difference_covers_what_it_says_and_no_more(
    known: KnownDifference, outcome: Outcome
) -> None:
    theirs, ours = Answer(status=299), Answer(status=202)
    theirs = Answer(status=299, reason="Accepted")
    verdict = judge(REQUEST, theirs, ours, scenario="s", known=(known,))
    assert verdict.where == "s/one"
    assert verdict.outcome is outcome


def test_one_difference_that_is_not_meant_spoils_the_exchange() -> None:
    known = (KnownDifference(id="k", reason="", parts=("status",)),)
    verdict = judge(
        REQUEST, answer(1, status=200), answer(2, status=200), scenario="s", known=known
    )
    assert verdict.outcome is Outcome.UNEXPECTED
    assert [each.part for each in verdict.differences] == ["body"]
