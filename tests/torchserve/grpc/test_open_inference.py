"""The Open Inference Protocol over gRPC, under both of its names."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import grpc
import pytest

import flambeau
from flambeau.torchserve.grpc.protos.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from tests.integration.server import Server
from tests.torchserve.grpc.client import OPEN_INFERENCE, TORCHSERVE_OPEN_INFERENCE, Client

pytestmark = pytest.mark.slow

Tensor = ModelInferRequest.InferInputTensor
NOT_FOUND = [
    "Model not found: nobody",
    "org.pytorch.serve.archive.model.ModelNotFoundException",
]


@pytest.fixture(params=[OPEN_INFERENCE, TORCHSERVE_OPEN_INFERENCE], ids=["standard", "torchserve"])
def service(request: pytest.FixtureRequest) -> str:
    """Each name of the service."""
    name: str = request.param
    return name


def infer(client: Client, service: str, request: ModelInferRequest) -> ModelInferResponse:
    return client.call(f"{service}/ModelInfer", request, ModelInferResponse)


def received(response: ModelInferResponse) -> dict[str, Any]:
    """The JSON body that the handler got, which it puts in its last output."""
    document: dict[str, Any] = json.loads(response.outputs[-1].contents.bytes_contents[0])
    return document


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, list[str]]:
    assert isinstance(error, grpc.Call)
    return error.code(), (error.details() or "").split("\n")


def test_a_server_that_is_ready_is_live_and_ready(client: Client, service: str) -> None:
    live = client.call(f"{service}/ServerLive", ServerLiveRequest(), ServerLiveResponse)
    ready = client.call(f"{service}/ServerReady", ServerReadyRequest(), ServerReadyResponse)
    assert (live.live, ready.ready) == (True, True)


def test_the_server_says_who_it_is(client: Client, service: str) -> None:
    told = client.call(f"{service}/ServerMetadata", ServerMetadataRequest(), ServerMetadataResponse)
    assert (told.name, told.version) == ("Torchserve", flambeau.__version__)
    assert list(told.extensions) == ["kserve", "kubeflow"]


@pytest.mark.parametrize("version", ["", "2.0"])
def test_a_model_that_answers_is_ready(client: Client, service: str, version: str) -> None:
    request = ModelReadyRequest(name="echo", version=version)
    assert client.call(f"{service}/ModelReady", request, ModelReadyResponse).ready


def test_metadata_has_the_tensors_of_the_archive_s_signature(client: Client, service: str) -> None:
    told = client.call(
        f"{service}/ModelMetadata", ModelMetadataRequest(name="summing"), ModelMetadataResponse
    )
    tensors = [(each.name, each.datatype, list(each.shape)) for each in told.inputs]
    tensors += [(each.name, each.datatype, list(each.shape)) for each in told.outputs]
    assert (told.name, list(told.versions)) == ("summing", ["1.0"])
    assert tensors == [("numbers", "FP32", [-1, 3]), ("output_0", "FP32", [-1])]


def test_metadata_lists_every_version(client: Client, service: str) -> None:
    request = ModelMetadataRequest(name="echo", version="2.0")
    told = client.call(f"{service}/ModelMetadata", request, ModelMetadataResponse)
    assert list(told.versions) == ["1.0", "2.0"]
    assert not told.inputs
    assert not told.outputs


@pytest.mark.parametrize(
    ("datatype", "contents", "data"),
    [
        ("BOOL", InferTensorContents(bool_contents=[True, False]), [True, False]),
        ("INT8", InferTensorContents(int_contents=[-1, 2]), [-1, 2]),
        ("INT32", InferTensorContents(int_contents=[-(2**31), 2]), [-(2**31), 2]),
        ("INT64", InferTensorContents(int64_contents=[-(2**63), 2]), [-(2**63), 2]),
        ("UINT16", InferTensorContents(uint_contents=[1, 2]), [1, 2]),
        ("UINT64", InferTensorContents(uint64_contents=[2**64 - 1, 2]), [2**64 - 1, 2]),
        ("FP32", InferTensorContents(fp32_contents=[0.5, 2]), [0.5, 2.0]),
        ("FP64", InferTensorContents(fp64_contents=[0.1, 2]), [0.1, 2.0]),
    ],
)
def test_typed_tensors_reach_the_handler_as_json_and_come_back(
    client: Client, service: str, datatype: str, contents: InferTensorContents, data: list[Any]
) -> None:
    tensor = Tensor(name="x", datatype=datatype, shape=[1, 2], contents=contents)
    request = ModelInferRequest(model_name="tensors", id="7", inputs=[tensor])
    response = infer(client, service, request)
    assert received(response) == {
        "id": "7",
        "model_name": "tensors",
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": datatype, "data": data}],
    }
    assert (response.id, response.model_name, response.model_version) == ("7", "tensors", "1.0")
    output = response.outputs[0]
    assert (output.name, output.datatype, list(output.shape)) == ("x", datatype, [1, 2])
    assert output.contents == contents
    assert not response.raw_output_contents


def test_bytes_reach_the_handler_as_base64(client: Client, service: str) -> None:
    contents = InferTensorContents(bytes_contents=[b"\x00\xff", b""])
    tensor = Tensor(name="x", datatype="BYTES", shape=[2], contents=contents)
    response = infer(client, service, ModelInferRequest(model_name="tensors", inputs=[tensor]))
    (seen,) = received(response)["inputs"]
    assert [base64.b64decode(each) for each in seen["data"]] == [b"\x00\xff", b""]
    assert list(response.outputs[0].contents.bytes_contents) == [b"AP8=", b""]  # as it was given


def test_raw_tensors_are_answered_with_raw_tensors(client: Client, service: str) -> None:
    request = ModelInferRequest(
        model_name="tensors",
        inputs=[
            Tensor(name="half", datatype="FP16", shape=[2]),
            Tensor(name="words", datatype="BYTES", shape=[2]),
            Tensor(name="flags", datatype="BOOL", shape=[3]),
        ],
        raw_input_contents=[
            struct.pack("<2e", 0.5, -2),
            struct.pack("<I2sI", 2, b"hi", 0),
            b"\x01\x00\x01",
        ],
    )
    response = infer(client, service, request)
    half, words, flags, document = response.raw_output_contents
    assert half == struct.pack("<2e", 0.5, -2)
    assert words == struct.pack("<I4sI", 4, b"aGk=", 0)
    assert flags == b"\x01\x00\x01"
    inputs = json.loads(document[4:])["inputs"]
    assert [each["data"] for each in inputs] == [[0.5, -2.0], ["aGk=", ""], [True, False, True]]
    assert not any(output.HasField("contents") for output in response.outputs)


def test_large_tensors_are_converted_too(client: Client, service: str) -> None:
    numbers = struct.pack("<20000f", *range(20000))
    tensor = Tensor(name="x", datatype="FP32", shape=[20000])
    request = ModelInferRequest(model_name="tensors", inputs=[tensor], raw_input_contents=[numbers])
    assert infer(client, service, request).raw_output_contents[0] == numbers


def test_parameters_go_both_ways(client: Client, service: str) -> None:
    parameters = {
        "steps": InferParameter(int64_param=3),
        "cold": InferParameter(bool_param=False),
        "style": InferParameter(string_param="plain"),
    }
    tensor = Tensor(name="x", datatype="INT32", shape=[0], parameters=parameters)
    request = ModelInferRequest(model_name="tensors", inputs=[tensor], parameters=parameters)
    response = infer(client, service, request)
    seen = received(response)
    expected = {"steps": 3, "cold": False, "style": "plain"}
    assert seen["parameters"] == expected
    assert seen["inputs"][0]["parameters"] == expected
    assert response.parameters["device"].string_param == "cpu"
    assert response.parameters["steps"].int64_param == 3
    assert response.parameters["cold"].WhichOneof("parameter_choice") == "bool_param"


def test_outputs_that_nobody_asked_for_are_left_out(client: Client, service: str) -> None:
    wanted = ModelInferRequest.InferRequestedOutputTensor(name="request")
    tensor = Tensor(name="x", datatype="INT32", shape=[0])
    request = ModelInferRequest(model_name="tensors", inputs=[tensor], outputs=[wanted])
    response = infer(client, service, request)
    assert [output.name for output in response.outputs] == ["request"]
    assert received(response)["outputs"] == [{"name": "request"}]


@pytest.mark.parametrize(
    ("tensor", "raw", "message"),
    [
        (Tensor(name="x", datatype="FP8", shape=[1]), [], "input 'x' is 'FP8'; use one of BOOL"),
        (Tensor(name="x", datatype="BF16", shape=[1]), [], "send it in raw_input_contents"),
        (Tensor(name="x", datatype="FP32", shape=[2]), [b"1234"], "has 1 elements, expected 2"),
        (Tensor(name="x", datatype="FP32", shape=[2]), [b"123"], "3 bytes, no multiple of 4"),
        (Tensor(name="x", datatype="BYTES", shape=[1]), [b"\x09\0\0\0x"], "ends within an element"),
        (Tensor(name="x", datatype="FP32", shape=[2]), [b"", b""], "2 entries for 1 inputs"),
        (
            Tensor(
                name="x",
                datatype="FP32",
                shape=[1],
                contents=InferTensorContents(fp32_contents=[float("nan")]),
            ),
            [],
            "NaN or infinity",
        ),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_an_invalid_argument(
    client: Client, service: str, tensor: Tensor, raw: list[bytes], message: str
) -> None:
    request = ModelInferRequest(model_name="tensors", inputs=[tensor], raw_input_contents=raw)
    with pytest.raises(grpc.RpcError) as caught:
        infer(client, service, request)
    code, lines = status_of(caught.value)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message in lines[0]


def test_an_answer_that_is_no_inference_response_is_internal(client: Client, service: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(client, service, ModelInferRequest(model_name="echo"))
    code, lines = status_of(caught.value)
    assert code == grpc.StatusCode.INTERNAL
    assert "the handler's answer is no inference response" in lines[0]


def test_a_missing_name_is_internal_in_torchserve_s_words(client: Client, service: str) -> None:
    told: list[tuple[grpc.StatusCode, list[str]]] = []
    for method, request, response in (
        ("ModelReady", ModelReadyRequest(), ModelReadyResponse),
        ("ModelMetadata", ModelMetadataRequest(), ModelMetadataResponse),
        ("ModelInfer", ModelInferRequest(), ModelInferResponse),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            client.call(f"{service}/{method}", request, response)
        told.append(status_of(caught.value))
    names = ("name", "model_name", "model_name")
    assert told == [
        (
            grpc.StatusCode.INTERNAL,
            [f"Parameter {name} is required.", "BadRequestException.()"],
        )
        for name in names
    ]


def test_an_unknown_model_is_not_found_but_for_inference(client: Client, service: str) -> None:
    codes: list[grpc.StatusCode] = []
    for method, request, response in (
        ("ModelReady", ModelReadyRequest(name="nobody"), ModelReadyResponse),
        ("ModelMetadata", ModelMetadataRequest(name="nobody"), ModelMetadataResponse),
        ("ModelInfer", ModelInferRequest(model_name="nobody"), ModelInferResponse),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            client.call(f"{service}/{method}", request, response)
        code, lines = status_of(caught.value)
        assert lines == NOT_FOUND
        codes.append(code)
    assert codes == [
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INTERNAL,
    ]


def test_http_tells_the_same(server: Server) -> None:
    model = server.inference.get("/v2/models/summing")
    assert model.json()["inputs"] == [{"name": "numbers", "datatype": "FP32", "shape": [-1, 3]}]
    ready = server.inference.get("/v2/models/echo/versions/2.0/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": "echo", "ready": True})
    assert server.inference.get("/v2/health/ready").json() == {"ready": True}
