"""StreamPredictions2: many requests of one sequence in one call."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from flambeau.torchserve.grpc.protos.inference_pb2 import PredictionResponse, PredictionsRequest
from tests.torchserve.grpc.client import Client

pytestmark = pytest.mark.slow


def numbers(
    *values: int, sequence_id: str | None = None, model: str = "sum"
) -> list[PredictionsRequest]:
    return [
        PredictionsRequest(
            model_name=model, sequence_id=sequence_id, input={"number": str(value).encode()}
        )
        for value in values
    ]


def sums(answers: Iterator[PredictionResponse]) -> list[int]:
    return [int(answer.prediction) for answer in answers]


def test_the_requests_of_a_call_share_a_sequence(client: Client) -> None:
    assert sums(client.converse(numbers(1, 2, 3, sequence_id="mine"))) == [1, 3, 6]


def test_a_sequence_without_an_id_gets_one_that_answers_name(client: Client) -> None:
    answers = list(client.converse(numbers(1, 2)))
    assert sums(iter(answers)) == [1, 3]
    (name,) = {answer.sequence_id for answer in answers}
    assert name.startswith("ts-seq-")


def test_a_sequence_ends_with_its_call(client: Client) -> None:
    """The model takes one sequence at a time, so each call needs the place of the one before."""
    assert [sums(client.converse(numbers(5, sequence_id=name))) for name in "abc"] == [[5]] * 3


def test_an_answer_comes_before_the_next_request_is_sent(client: Client) -> None:
    outbox: queue.SimpleQueue[PredictionsRequest | None] = queue.SimpleQueue()
    answers = client.converse(iter(outbox.get, None))
    total = 0
    for request in numbers(1, 2, 3):
        outbox.put(request)
        total += int(request.input["number"])
        assert int(next(answers).prediction) == total
    outbox.put(None)
    assert list(answers) == []


def test_a_call_that_is_cancelled_ends_its_sequence(client: Client) -> None:
    outbox: queue.SimpleQueue[PredictionsRequest | None] = queue.SimpleQueue()
    answers = client.converse(iter(outbox.get, None))
    outbox.put(numbers(1)[0])
    next(answers)
    answers.cancel()  # type: ignore[attr-defined]  # an iterator and a call in one
    outbox.put(None)
    while True:
        (answer,) = client.converse(numbers(7))
        if not answer.HasField("status"):  # until the server has heard of the cancellation
            break
    assert answer.prediction == b"7"


def test_a_model_without_sequences_answers_in_the_order_of_the_requests(client: Client) -> None:
    requests = [
        PredictionsRequest(model_name="echo", input={"data": str(number).encode()})
        for number in range(100)
    ]
    answers = [json.loads(answer.prediction) for answer in client.converse(requests)]
    assert [answer["inputs"]["data"][1] for answer in answers] == [str(n) for n in range(100)]
    assert len({answer["request_id"] for answer in answers}) == 100


def test_the_parts_of_an_answer_come_in_the_turn_of_its_request(client: Client) -> None:
    requests = [
        PredictionsRequest(model_name="count", input={"count": count}) for count in (b"1", b"2")
    ]
    parts = [answer.prediction for answer in client.converse(requests)]
    assert parts == [b"0 ", b"end", b"0 ", b"1 ", b"end"]


def test_a_request_that_fails_has_a_status_and_the_call_goes_on(client: Client) -> None:
    requests = [
        *numbers(1, model="nobody", sequence_id="s"),
        *numbers(1, model="", sequence_id="s"),
        PredictionsRequest(model_name="careless", sequence_id="s", input={"do": b"refuse"}),
        PredictionsRequest(model_name="echo", sequence_id="s", input={"data": b"x"}),
    ]
    answers = list(client.converse(requests))
    told: list[tuple[int, str, str]] = []
    for answer in answers[:3]:
        assert answer.sequence_id == "s"
        detail = ErrorInfo()
        assert answer.status.details[0].Unpack(detail)
        told.append((answer.status.code, answer.status.message, detail.reason))
    package = "org.pytorch.serve"
    assert told == [
        (13, "Model not found: nobody", f"{package}.archive.model.ModelNotFoundException"),
        (13, "Parameter model_name is required.", "BadRequestException.()"),
        (3, "the image is not an image", f"{package}.http.InternalServerException"),
    ]
    assert json.loads(answers[3].prediction)["inputs"] == {"data": ["bytearray", "x"]}
