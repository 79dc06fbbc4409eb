"""Predictions over gRPC: what reaches the handler, what comes back, and how calls fail."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from flambeau.torchserve.grpc.protos.inference_pb2 import (
    PredictionResponse,
    PredictionsRequest,
    TorchServeHealthResponse,
)
from tests.integration.server import JSON, Server, wait_until
from tests.torchserve.grpc.client import INFERENCE, Client, Inputs
from tests.torchserve.grpc.conftest import MAX_REQUEST_BYTES

pytestmark = pytest.mark.slow


def echoed(client: Client, inputs: Inputs, *, version: str = "") -> JSON:
    return dict(json.loads(client.predict("echo", inputs, version=version)))


def failure(client: Client, model: str, inputs: Inputs) -> tuple[grpc.StatusCode, list[str]]:
    """Status and description lines of a prediction that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(model, inputs)
    return status_of(caught.value)


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, list[str]]:
    assert isinstance(error, grpc.Call)
    return error.code(), (error.details() or "").split("\n")


def test_ping_says_what_http_says(server: Server, client: Client) -> None:
    health = client.call(f"{INFERENCE}/Ping", Empty(), TorchServeHealthResponse).health
    assert health + "\n" == server.inference.get("/ping").text
    assert json.loads(health) == {"status": "Healthy"}


def test_each_input_reaches_the_handler_as_bytes_under_its_name(client: Client) -> None:
    document = echoed(client, {"data": b'{"not": "decoded"}', "other": bytes(range(256))})
    assert document["inputs"] == {
        "data": ["bytearray", '{"not": "decoded"}'],
        "other": ["bytearray", bytes(range(256)).decode("latin-1")],
    }


def test_the_version_asked_for_answers_else_the_default(client: Client) -> None:
    assert [echoed(client, {}, version=each)["version"] for each in ("", "1.0", "2.0")] == [
        "1.0",
        "1.0",
        "2.0",
    ]


def test_metadata_reaches_the_handler_as_headers_do_but_no_token(client: Client) -> None:
    metadata = (("x-tenant", "blue"), ("authorization", "Bearer secret"), ("explain", "True"))
    document = json.loads(client.predict("echo", {}, metadata=metadata))
    assert document["tenant"] == "blue"
    assert "authorization" not in document["headers"]
    assert document["headers"]["explain"] == "False"


def test_an_answer_is_followed_by_the_request_s_id_and_the_version(client: Client) -> None:
    multi = client.channel.unary_unary(
        f"/{INFERENCE}/Predictions",
        request_serializer=PredictionsRequest.SerializeToString,
        response_deserializer=PredictionResponse.FromString,
    )
    request = PredictionsRequest(model_name="echo", input={"data": b""})
    answer, call = multi.with_call(request)
    trailers = dict(call.trailing_metadata())
    assert trailers["x-request-id"] == json.loads(answer.prediction)["request_id"]
    assert trailers["x-model-version"] == "1.0"


def test_a_status_the_handler_sets_comes_beside_its_answer(client: Client) -> None:
    multi = client.channel.unary_unary(
        f"/{INFERENCE}/Predictions",
        request_serializer=PredictionsRequest.SerializeToString,
        response_deserializer=PredictionResponse.FromString,
    )
    request = PredictionsRequest(model_name="careless", input={"do": b"choose a status"})
    answer, call = multi.with_call(request)
    assert answer.prediction == b"an answer"
    assert ("x-status", "404") in [tuple(pair) for pair in call.trailing_metadata()]


def test_calls_that_wait_together_are_one_batch(server: Server, client: Client, gate: Path) -> None:
    def ask(name: str) -> Future[bytes]:
        inputs = {"gate": str(gate).encode(), "name": name.encode()}
        return server.in_thread(lambda: client.predict("held", inputs))

    first = ask("first")
    wait_until(gate.with_name("first.started").exists, what="the worker is busy")
    others = [ask(f"other{number}") for number in range(4)]
    wait_until(
        lambda: server.describe("held")["jobQueueStatus"]["pendingRequests"] == 4,
        what="the others wait",
    )
    gate.touch()
    assert first.result() == b"1"
    assert [each.result() for each in others] == [b"4"] * 4


def test_a_streamed_answer_comes_part_by_part(client: Client) -> None:
    parts = [part.prediction for part in client.stream("count", {"count": b"3"})]
    assert parts == [b"0 ", b"1 ", b"2 ", b"end"]


def test_a_part_comes_while_the_handler_is_still_at_work(client: Client, gate: Path) -> None:
    parts = client.stream("endless", {"gate": str(gate).encode()})
    assert next(parts).prediction == b"first"
    gate.touch()
    assert [part.prediction for part in parts] == [b"last"]


def test_a_plain_answer_is_a_stream_of_one(client: Client) -> None:
    (part,) = client.stream("echo", {"data": b"x"})
    assert json.loads(part.prediction)["inputs"] == {"data": ["bytearray", "x"]}


def test_a_streamed_answer_is_whole_for_who_asks_for_one_message(client: Client) -> None:
    assert client.predict("count", {"count": b"3"}) == b"0 1 2 end"


def test_a_stream_that_fails_in_the_middle_ends_with_a_status(client: Client) -> None:
    parts = client.stream("count", {"count": b"2", "fail": b""})
    assert [next(parts).prediction, next(parts).prediction] == [b"0 ", b"1 "]
    with pytest.raises(grpc.RpcError) as caught:
        next(parts)
    code, lines = status_of(caught.value)
    assert (code, lines[0]) == (grpc.StatusCode.UNAVAILABLE, "Prediction failed")


@pytest.mark.parametrize(
    ("model", "message", "reason"),
    [
        ("", "Parameter model_name is required.", "BadRequestException.()"),
        (
            "nobody",
            "Model not found: nobody",
            "org.pytorch.serve.archive.model.ModelNotFoundException",
        ),
    ],
)
def test_what_torchserve_refuses_itself_is_internal(
    client: Client, model: str, message: str, reason: str
) -> None:
    assert failure(client, model, {}) == (grpc.StatusCode.INTERNAL, [message, reason])
    with pytest.raises(grpc.RpcError) as caught:
        list(client.stream(model, {}))
    assert status_of(caught.value) == (grpc.StatusCode.INTERNAL, [message, reason])


def test_an_unknown_version_is_internal(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.predict("echo", {}, version="9")
    assert status_of(caught.value) == (
        grpc.StatusCode.INTERNAL,
        [
            "Model version: 9 does not exist for model: echo",
            "org.pytorch.serve.archive.model.ModelVersionNotFoundException",
        ],
    )


@pytest.mark.parametrize(
    ("order", "code", "message"),
    [
        ("raise", grpc.StatusCode.UNAVAILABLE, "Prediction failed"),
        ("raise no memory", grpc.StatusCode.INTERNAL, "Out of resources"),
        ("return no list", grpc.StatusCode.UNAVAILABLE, "Invalid model predict output"),
        ("refuse", grpc.StatusCode.INVALID_ARGUMENT, "the image is not an image"),
        ("401", grpc.StatusCode.UNAUTHENTICATED, "as it wishes"),
        ("403", grpc.StatusCode.PERMISSION_DENIED, "as it wishes"),
        ("404", grpc.StatusCode.NOT_FOUND, "as it wishes"),
        ("409", grpc.StatusCode.ABORTED, "as it wishes"),
        ("413", grpc.StatusCode.RESOURCE_EXHAUSTED, "as it wishes"),
        ("416", grpc.StatusCode.OUT_OF_RANGE, "as it wishes"),
        ("418", grpc.StatusCode.FAILED_PRECONDITION, "as it wishes"),
        ("429", grpc.StatusCode.RESOURCE_EXHAUSTED, "as it wishes"),
        ("499", grpc.StatusCode.CANCELLED, "as it wishes"),
        ("501", grpc.StatusCode.UNIMPLEMENTED, "as it wishes"),
        ("504", grpc.StatusCode.DEADLINE_EXCEEDED, "as it wishes"),
        ("599", grpc.StatusCode.INTERNAL, "as it wishes"),
    ],
)
def test_a_failure_in_the_worker_keeps_its_kind(
    client: Client, order: str, code: grpc.StatusCode, message: str
) -> None:
    expected = [message, "org.pytorch.serve.http.InternalServerException"]
    assert failure(client, "careless", {"do": order.encode()}) == (code, expected)


def test_a_message_over_the_limit_is_refused(client: Client) -> None:
    code, _ = failure(client, "echo", {"data": b"x" * (MAX_REQUEST_BYTES + 1)})
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_call_that_is_cancelled_or_late_leaves_the_queue(
    server: Server, client: Client, gate: Path
) -> None:
    def num_waiting() -> int:
        return int(server.describe("held")["jobQueueStatus"]["pendingRequests"])

    inputs = {"gate": str(gate).encode(), "name": b"first"}
    first = server.in_thread(lambda: client.predict("held", inputs))
    wait_until(gate.with_name("first.started").exists, what="the worker is busy")
    waiting = client.stream("held", inputs)
    wait_until(lambda: num_waiting() == 1, what="the second waits")
    waiting.cancel()
    wait_until(lambda: num_waiting() == 0, what="the second has left")
    request = PredictionsRequest(model_name="held", input=inputs)
    with pytest.raises(grpc.RpcError) as caught:
        client.call(f"{INFERENCE}/Predictions", request, PredictionResponse, timeout_s=0.2)
    assert status_of(caught.value)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: num_waiting() == 0, what="the third has left")
    gate.touch()
    assert first.result() == b"1"


def test_calls_are_counted_as_requests_over_http_are(server: Server, client: Client) -> None:
    def count(outcome: str) -> float:
        samples = server.samples("flambeau_requests_total")
        return samples[f'model="careless",outcome="{outcome}",version="1.0"']

    before = count("ok"), count("request_error")
    client.predict("careless", {"do": b"choose a status"})
    failure(client, "careless", {"do": b"refuse"})
    assert (count("ok"), count("request_error")) == (before[0] + 1, before[1] + 1)


def test_the_access_log_tells_each_call_and_how_it_ended(server: Server, client: Client) -> None:
    request_id = echoed(client, {})["request_id"]
    record = server.wait_record(
        lambda r: r["logger"] == "flambeau.access" and r["request_id"] == request_id
    )
    assert record["message"] == f"gRPC {INFERENCE}/Predictions HTTP/2.0 0"
    assert {key: record[key] for key in ("listener", "client", "status", "http_version")} == {
        "listener": "grpc_inference",
        "client": "127.0.0.1",
        "status": 0,
        "http_version": "2.0",
    }


def test_a_method_that_does_not_exist_is_unimplemented(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.call(f"{INFERENCE}/Guess", PredictionsRequest(), PredictionResponse)
    assert status_of(caught.value)[0] == grpc.StatusCode.UNIMPLEMENTED
