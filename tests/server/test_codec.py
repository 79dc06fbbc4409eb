from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flambeau.codec import decode_request, encode_json, encode_output
from flambeau.context import RequestProcessor
from flambeau.errors import HandlerFailed, InvalidInput, UnsupportedContentType
from flambeau.messages import Failure, FailureKind, InferenceRequest, Input, Reply

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def decode(body: bytes, content_type: str | None) -> object:
    part = Input("body", content_type, memoryview(body))
    return decode_request(InferenceRequest("id", [], [part]))["body"]


def encode(output: object, *, max_response_bytes: int = 1_000_000) -> Reply:
    reply = encode_output(output, RequestProcessor({}), max_response_bytes=max_response_bytes)
    assert isinstance(reply, Reply)
    return reply


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_arrives_parsed(content_type: str) -> None:
    assert decode(b'{"data": [1, 2.5]}', content_type) == {"data": [1, 2.5]}


def test_text_arrives_as_str() -> None:
    assert decode("gr\u00fcn".encode(), "text/plain; charset=utf-8") == "gr\u00fcn"


@pytest.mark.parametrize("content_type", [None, "image/png", "application/octet-stream"])
def test_everything_else_arrives_as_a_bytearray(content_type: str | None) -> None:
    body = decode(b"[1]", content_type)
    assert body == bytearray(b"[1]")
    assert isinstance(body, bytearray)


@pytest.mark.parametrize(
    "body",
    [b"{", b"[NaN]", b"[-Infinity]", b"[1e999]", b"\xff", b"", b"[1] [2]", b"[" * 100_000],
    ids=["open", "nan", "infinity", "overflow", "utf8", "empty", "two", "deep"],
)
def test_json_that_does_not_parse_arrives_as_it_is(body: bytes) -> None:
    decoded = decode(body, "application/json")
    assert decoded == bytearray(body)
    assert isinstance(decoded, bytearray)


def test_text_that_is_not_utf8_arrives_as_it_is() -> None:
    assert decode(b"\xff", "text/plain") == bytearray(b"\xff")


def test_of_fields_with_one_name_the_last_counts() -> None:
    parts = [Input("data", None, memoryview(b"1")), Input("data", None, memoryview(b"2"))]
    assert decode_request(InferenceRequest("id", [], parts)) == {"data": bytearray(b"2")}


@pytest.mark.parametrize("output", [b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc"])
def test_bytes_and_text_leave_as_they_are_without_a_content_type(output: object) -> None:
    reply = encode(output)
    assert bytes(reply.body) == b"abc"
    assert reply.headers == []


def test_a_view_of_wider_items_leaves_as_its_bytes() -> None:
    reply = encode(np.array([1, 2], dtype="<i4").data)
    assert bytes(reply.body) == b"\x01\0\0\0\x02\0\0\0"


def test_a_tensor_leaves_as_torch_save_writes_it() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    body = encode(tensor).body
    assert torch.equal(torch.load(io.BytesIO(body), weights_only=True), tensor)


def test_anything_else_leaves_as_indented_json_that_says_so() -> None:
    reply = encode({"cat": 0.75, "dog": 0.25})
    assert bytes(reply.body) == b'{\n  "cat": 0.75,\n  "dog": 0.25\n}'
    assert reply.headers == [("content-type", "application/json")]


def test_the_content_type_a_handler_chose_is_kept() -> None:
    processor = RequestProcessor({})
    processor.add_response_property("Content-Type", "application/vnd.x+json")
    reply = encode_output([1], processor, max_response_bytes=100)
    assert isinstance(reply, Reply)
    assert reply.headers == [("Content-Type", "application/vnd.x+json")]


@pytest.mark.parametrize("output", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("neighbour", ["plain", "gr\u00fcn", 2**70])
def test_numbers_json_cannot_hold_leave_as_null(output: float, neighbour: object) -> None:
    assert json.loads(encode_json({"a": [(output,)], "b": neighbour})) == {
        "a": [[None]],
        "b": neighbour,
    }


@given(value=documents)
def test_json_means_what_the_standard_library_would_write(value: object) -> None:
    expected = json.loads(json.dumps(value), parse_constant=lambda _: None)
    assert json.loads(encode_json(value)) == expected
    assert encode_json(value).isascii()


@pytest.mark.parametrize("value", [[], [1], [0.5, -2, 1.25], [[1, 2.5], [3]], [True, 1], [","]])
def test_lists_leave_as_the_standard_library_writes_them(value: object) -> None:
    assert encode_json(value) == json.dumps(value, indent=2).encode()


@pytest.mark.parametrize("value", [{1: 2}, {None: 1}, [np.float64(0.5)], {True: [2**80]}])
def test_what_only_the_standard_library_encodes_is_encoded_by_it(value: object) -> None:
    assert encode_json(value) == json.dumps(value, indent=2).encode()


def circle() -> list[object]:
    """A list that holds itself."""
    items: list[object] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    "output",
    [object(), {"a": {1, 2}}, {"a": b"bytes"}, [np.zeros(3)], [torch.ones(1)], circle(), "\ud800"],
    ids=["object", "set", "bytes", "array", "tensor", "circle", "surrogate"],
)
def test_an_output_without_an_encoding_fails_by_name(output: object) -> None:
    with pytest.raises(HandlerFailed, match=r"^Unsupported model output data type\.$"):
        encode(output)


def test_an_answer_over_the_limit_fails_alone() -> None:
    failure = encode_output(b"x" * 11, RequestProcessor({}), max_response_bytes=10)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.HANDLER_FAILED
    assert "11 bytes, over max_response_size 10" in failure.message
    assert len(encode(b"x" * 10, max_response_bytes=10).body) == 10


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (InvalidInput("7 values, expected 8"), FailureKind.INVALID_INPUT),
        (UnsupportedContentType("7 values, expected 8"), FailureKind.UNSUPPORTED_CONTENT_TYPE),
    ],
)
def test_an_error_in_place_of_an_output_fails_that_request(
    output: Exception, kind: FailureKind
) -> None:
    failure = encode_output(output, RequestProcessor({}), max_response_bytes=10)
    assert failure == Failure(kind, "7 values, expected 8")


def test_status_and_headers_a_handler_set_go_out_with_the_answer() -> None:
    processor = RequestProcessor({})
    processor.report_status(299, "Fine")
    processor.add_response_property("x-model", "lenet")
    reply = encode_output("ok", processor, max_response_bytes=10)
    assert reply == Reply(299, "Fine", [("x-model", "lenet")], memoryview(b"ok"))
