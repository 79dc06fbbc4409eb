"""What a handler asks and says through its context."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from flambeau.context import Context, RequestProcessor
from flambeau.errors import HandlerFailed
from flambeau.handler_metrics import MetricsCache
from flambeau.messages import InferenceRequest, Input


def request(request_id: str, headers: dict[str, str] | None = None) -> InferenceRequest:
    inputs = [Input("data", "image/png; q=1", memoryview(b""))]
    return InferenceRequest(request_id, list((headers or {}).items()), inputs)


@pytest.fixture
def context() -> Context:
    metrics = MetricsCache(model_name="mine", auto_detect=True)
    made = Context("mine", "/", {}, 4, 0, "0.1", metrics=metrics)
    made.begin_batch([request("a", {"x-who": "first"}), request("b")])
    return made


def test_it_is_made_as_in_torchserve() -> None:
    made = Context("mine", "/tmp", {"model": {}}, 1, None, "1.0", False, "metrics", {"a": 1})  # noqa: FBT003  # its signature
    assert made.system_properties["limit_max_image_pixels"] is False
    assert (made.metrics, made.model_yaml_config) == ("metrics", {"a": 1})
    assert (made.request_ids, made.request_processor, made.cl_socket) == ({}, [], None)
    assert (made.get_request_id(), made.stopping_criteria) == (None, None)


def test_it_says_what_belongs_to_each_request(context: Context) -> None:
    assert context.request_ids == {0: "a", 1: "b"}
    assert [context.get_request_header(idx, "X-Who") for idx in (0, 1)] == ["first", None]
    assert context.get_all_request_header(0) == {
        "x-who": "first",
        "data": {"content-type": "image/png"},
    }
    assert context.get_input_content_type(1, "data") == "image/png"


def test_all_headers_are_found_by_their_usual_spelling(context: Context) -> None:
    headers = context.get_all_request_header(0)
    assert headers["X-Who"] == headers.get("X-Who") == headers["x-who"] == "first"
    assert "X-Who" in headers
    assert "X-What" not in headers
    assert (headers.get("X-What"), headers.get("X-What", "else")) == (None, "else")
    with pytest.raises(KeyError):
        headers["X-What"]


def test_an_input_without_a_content_type_has_an_empty_one() -> None:
    made = Context("mine", "/", {}, 1, None, "0.1")
    made.begin_batch([InferenceRequest("a", [], [Input("body", None, memoryview(b""))])])
    assert made.get_request_header(0, "body") == {"content-type": ""}
    assert made.get_input_content_type(0, "body") is None


def test_of_inputs_with_one_name_the_last_ones_type_counts_as_its_value_does() -> None:
    made = Context("mine", "/", {}, 1, None, "0.1")
    types = ("text/plain", "Application/JSON; charset=utf-8")
    inputs = [Input("body", content_type, memoryview(b"")) for content_type in types]
    made.begin_batch([InferenceRequest("a", [("body", "a header")], inputs)])
    assert made.get_input_content_type(0, "body") == "application/json"
    assert made.get_request_header(0, "body") == "a header"


def test_answers_have_statuses_and_headers_of_their_own(context: Context) -> None:
    context.set_response_status(418, "Teapot", idx=1)
    context.set_response_header(0, "x-pot", "tea")
    context.set_response_content_type(1, "text/plain")
    assert [context.get_response_status(idx) for idx in (0, 1)] == [(200, None), (418, "Teapot")]
    assert context.get_response_headers(0) == {"x-pot": "tea"}
    assert context.get_response_content_type(1) == "text/plain"
    context.set_all_response_status(503, "Busy")
    assert context.get_response_status(0) == context.get_response_status(1) == (503, "Busy")


def test_a_batch_leaves_nothing_to_the_next(context: Context) -> None:
    context.set_response_status(418, idx=0)
    context.begin_batch([request("c")])
    assert context.request_ids == {0: "c"}
    assert context.get_response_status(0) == (200, None)
    context.end_batch()
    assert context.request_processor == []


def test_what_is_attached_stays_from_batch_to_batch(context: Context) -> None:
    vars(context)["cache"] = {"a": 1}
    context.begin_batch([request("c")])
    assert vars(context)["cache"] == {"a": 1}


def test_a_copy_shares_what_was_attached_but_not_the_batch(context: Context) -> None:
    vars(context)["cache"] = {}
    other = copy.copy(context)
    other.begin_batch([request("c")])
    assert vars(other)["cache"] is vars(context)["cache"]
    assert (context.request_ids, other.request_ids) == ({0: "a", 1: "b"}, {0: "c"})


def test_requests_can_be_put_in_by_hand() -> None:
    made = Context("mine", "/", {}, 1, None, "0.1")
    made.request_processor = [RequestProcessor({"explain": "True"})]
    assert made.get_request_header(0, "explain") == "True"


def test_the_id_of_a_sequence_is_in_a_header(context: Context) -> None:
    names = (
        context.header_key_sequence_id,
        context.header_key_sequence_start,
        context.header_key_sequence_end,
    )
    assert names == (
        "ts_request_sequence_id",
        "ts_request_sequence_start",
        "ts_request_sequence_end",
    )
    context.begin_batch([request("a", {"ts_request_sequence_id": "s1"}), request("b")])
    assert [context.get_sequence_id(idx) for idx in (0, 1)] == ["s1", None]


def test_the_headers_of_sequences_can_have_other_names() -> None:
    names = ("X-Seq", "X-Start", "X-End")
    made = Context("mine", "/", {}, 1, None, "0.1", sequence_headers=names)
    made.begin_batch([request("a", {"x-seq": "s1"})])
    assert made.get_sequence_id(0) == "s1"
    assert made.header_key_sequence_end == "X-End"


def test_metrics_know_the_requests_of_the_batch(context: Context) -> None:
    metrics: Any = context.metrics
    metrics.add_counter("Calls", 1)
    metrics.add_counter("Calls", 1, 1)
    assert [sample.request_ids for sample in metrics.take()] == ["a,b", "b"]


def test_parts_of_answers_are_sent_while_a_batch_is_answered(context: Context) -> None:
    with pytest.raises(HandlerFailed, match="only while a batch is answered"):
        context.send_intermediate(["x", "y"])
    sent: list[object] = []
    context.intermediate_sink = sent.append
    context.send_intermediate(["x", "y"])
    assert sent == [["x", "y"]]


def test_loading_may_set_statuses_and_headers_that_nobody_reads() -> None:
    made = Context("mine", "/", {}, 1, None, "0.1")
    calls: list[Callable[[], None]] = [
        made.set_response_status,
        made.set_all_response_status,
        lambda: made.set_response_header(0, "a", "b"),
    ]
    for call in calls:
        call()


@pytest.mark.parametrize("code", [0, 99, 199, 600, 1000])
def test_a_status_that_ends_no_response_is_refused(context: Context, code: int) -> None:
    with pytest.raises(ValueError, match="use a whole number from 200 to 599"):
        context.set_response_status(code)
