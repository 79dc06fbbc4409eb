from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau import wire
from flambeau.messages import (
    BatchDone,
    Failure,
    FailureKind,
    InferenceRequest,
    Input,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    LoadStage,
    Reply,
    RunBatch,
    ToFront,
    ToWorker,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

texts = st.text(max_size=20)
bodies = st.binary(max_size=200).map(lambda body: memoryview(body))  # noqa: PLW0108  # mypy cannot infer the bare class
headers = st.lists(st.tuples(texts, texts), max_size=3)
sizes = st.integers(min_value=0, max_value=2**40)
seconds = st.floats(min_value=0, max_value=1e6)

inputs = st.builds(Input, name=texts, content_type=st.none() | texts, body=bodies)
requests = st.builds(
    InferenceRequest,
    request_id=texts,
    headers=headers,
    inputs=st.lists(inputs, min_size=1, max_size=3),
)
batches = st.builds(RunBatch, batch_id=sizes, requests=st.lists(requests, max_size=4))
loads = st.builds(
    LoadModel,
    model_name=texts,
    model_version=texts,
    model_dir=texts,
    handler=st.none() | texts,
    device=texts,
    max_batch_size=sizes,
    num_threads=sizes,
    max_response_bytes=sizes,
    server_version=texts,
)
replies = st.builds(Reply, status=sizes, phrase=texts, headers=headers, body=bodies)
failures = st.builds(Failure, kind=st.sampled_from(FailureKind), message=texts)
answers = st.builds(
    BatchDone, batch_id=sizes, results=st.lists(replies | failures, max_size=4), handler_s=seconds
)
reports = st.one_of(
    st.builds(LoadProgress, stage=st.sampled_from(LoadStage)),
    st.builds(Loaded, load_s=seconds, warm_up_s=seconds, check=texts),
    st.builds(
        LoadFailed,
        stage=st.sampled_from(LoadStage),
        kind=st.sampled_from(FailureKind),
        message=texts,
    ),
)


def feed(reader: wire.FrameReader, stream: bytes, pieces: Iterator[int]) -> list[memoryview]:
    """Give a reader a stream in receives of the given sizes, or smaller where its buffer is."""
    payloads: list[memoryview] = []
    at = 0
    while at < len(stream):
        buffer = reader.get_buffer()
        assert len(buffer) > 0
        piece = stream[at : at + min(next(pieces), len(buffer))]
        buffer[: len(piece)] = piece
        buffer.release()
        payloads += reader.received(len(piece))
        at += len(piece)
    return payloads


def forever(size: int) -> Iterator[int]:
    while True:
        yield size


@given(message=loads | batches)
def test_what_the_front_sends_is_what_the_worker_reads(message: ToWorker) -> None:
    frame = wire.encode(message)
    assert wire.decode_to_worker(memoryview(frame)[8:]) == message


@given(message=answers | reports)
def test_what_a_worker_sends_is_what_the_front_reads(message: ToFront) -> None:
    frame = wire.encode(message)
    assert wire.decode_to_front(memoryview(frame)[8:]) == message


LARGE = [wire.LARGE_BODY_BYTES, wire.LARGE_BODY_BYTES + 1, 600_000]


@pytest.mark.parametrize("sizes", [[0], [5, 65_535], LARGE, [1, *LARGE, 2], [600_000, 7, 600_000]])
def test_a_frame_in_pieces_is_the_frame_and_large_bodies_are_not_copied(sizes: list[int]) -> None:
    bodies = [memoryview(bytes([number]) * size) for number, size in enumerate(sizes)]
    parts = [Input("body", "image/png", body) for body in bodies]
    alone = [InferenceRequest("id", [("a", "b")], [part]) for part in parts]
    for requests in (alone, [InferenceRequest("form", [], parts)]):
        message = RunBatch(7, requests)
        pieces = wire.encode_apart(message)
        assert b"".join(pieces) == wire.encode(message)
        large = [body for body in bodies if len(body) >= wire.LARGE_BODY_BYTES]
        assert [body for body in large if not any(body is piece for piece in pieces)] == []


@given(message=loads | batches)
def test_what_has_no_large_body_is_one_piece(message: ToWorker) -> None:
    assert wire.encode_apart(message) == [wire.encode(message)]


@given(data=st.data(), messages=st.lists(batches, min_size=1, max_size=5))
def test_frames_come_out_whole_however_the_stream_is_split(
    data: st.DataObject, messages: list[RunBatch]
) -> None:
    stream = b"".join(wire.encode(message) for message in messages)

    def pieces() -> Iterator[int]:
        while True:
            yield data.draw(st.integers(min_value=1, max_value=400))

    reader = wire.FrameReader(max_frame_bytes=2**20)
    payloads = feed(reader, stream, pieces())
    assert [wire.decode_to_worker(payload) for payload in payloads] == messages


SCRATCH = wire._SCRATCH_BYTES


@settings(deadline=None, max_examples=60)  # up to 2 MB a case
@given(
    lengths=st.lists(
        st.sampled_from([0, 1, SCRATCH - 9, SCRATCH - 8, SCRATCH - 7, SCRATCH, 2 * SCRATCH + 1]),
        min_size=1,
        max_size=4,
    ),
    piece=st.sampled_from([16_383, 65_536, 300_000]),
)
def test_frames_larger_than_the_scratch_buffer_come_out_whole(
    lengths: list[int], piece: int
) -> None:
    expected = [bytes([number]) * length for number, length in enumerate(lengths)]
    stream = b"".join(len(payload).to_bytes(8, "little") + payload for payload in expected)
    reader = wire.FrameReader(max_frame_bytes=2**20)
    payloads = feed(reader, stream, forever(piece))
    assert [bytes(payload) for payload in payloads] == expected


def test_a_payload_stays_valid_after_further_receives() -> None:
    reader = wire.FrameReader(max_frame_bytes=2**20)
    small, large = b"\x03" + bytes(7) + b"abc", (100_000).to_bytes(8, "little") + b"x" * 100_000
    first = feed(reader, small + large, forever(50_000))
    feed(reader, (b"\x03" + bytes(7) + b"zzz") * 9_000, forever(50_000))
    assert bytes(first[0]) == b"abc"
    assert bytes(first[1]) == b"x" * 100_000


def test_bodies_are_views_into_the_payload() -> None:
    body = memoryview(bytes(1_000_000))
    message = RunBatch(1, [InferenceRequest("id", [], [Input("body", None, body)])])
    reader = wire.FrameReader(max_frame_bytes=2**21)
    (payload,) = feed(reader, bytes(wire.encode(message)), forever(65_536))
    decoded = wire.decode_to_worker(payload)
    assert isinstance(decoded, RunBatch)
    assert decoded.requests[0].inputs[0].body.obj is payload.obj


def test_a_frame_over_the_limit_is_refused_before_it_is_received() -> None:
    reader = wire.FrameReader(max_frame_bytes=1_000)
    with pytest.raises(wire.WireError, match="1001 bytes is announced, over the limit of 1000"):
        feed(reader, (1_001).to_bytes(8, "little"), forever(8))


def test_a_frame_of_exactly_the_limit_is_taken() -> None:
    reader = wire.FrameReader(max_frame_bytes=1_000)
    stream = (1_000).to_bytes(8, "little") + bytes(1_000)
    assert [len(payload) for payload in feed(reader, stream, forever(300))] == [1_000]


def decode_or_refuse(payload: bytes) -> None:
    """Fail on anything a decoder raises that is not WireError."""
    for decode in (wire.decode_to_worker, wire.decode_to_front):
        with contextlib.suppress(wire.WireError):
            decode(payload)


@given(payload=st.binary(max_size=300))
def test_garbage_is_never_more_than_a_wire_error(payload: bytes) -> None:
    decode_or_refuse(payload)


@given(data=st.data(), message=answers | batches)
def test_a_damaged_message_is_never_more_than_a_wire_error(
    data: st.DataObject, message: BatchDone | RunBatch
) -> None:
    payload = wire.encode(message)[8:]
    at = data.draw(st.integers(min_value=0, max_value=len(payload) - 1))
    payload[at : at + 1] = data.draw(st.binary(max_size=4))
    decode_or_refuse(bytes(payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        msgspec.msgpack.encode({"type": "BatchDone"}),
        msgspec.msgpack.encode({"type": "Unknown", "batch_id": 1}),
        msgspec.msgpack.encode({"type": "LoadProgress", "stage": "asleep"}),
        msgspec.msgpack.encode({"type": "LoadProgress", "stage": 1}),
        b"\x82\xa4type\xacLoadProgress\xa1x" + b"\x91" * 100_000,
        b"\x81\xa4type\xa2\xff\xff",
        b"\x84\xa4type\xa9BatchDone\xa8batch_id\x01\xa7results\xdd\xff\xff\xff\xff",
    ],
    ids=["empty", "keys", "tag", "enum", "type", "nesting", "utf8", "length"],
)
def test_a_payload_that_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(wire.WireError, match="not a message"):
        wire.decode_to_front(payload)


def test_a_message_for_the_other_side_is_refused() -> None:
    with pytest.raises(wire.WireError):
        wire.decode_to_worker(wire.encode(LoadProgress(LoadStage.READY))[8:])
