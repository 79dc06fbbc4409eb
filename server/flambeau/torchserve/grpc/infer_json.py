"""`ModelInfer` as one JSON body for a handler, and a handler's JSON as `ModelInferResponse`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flambeau.errors import HandlerFailed, InvalidInput
from flambeau.torchserve.grpc.protos.open_inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from flambeau.torchserve.grpc.tensors import (
    contents_from_data,
    data_from_contents,
    data_from_raw,
    raw_from_data,
)


def to_json(request: ModelInferRequest) -> bytes:
    """The body that the same request has over HTTP.

    `parameters` and `outputs` are in it only when the client sent some.

    Raises:
        InvalidInput: A tensor that does not hold what it says.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; give "
            "one for each, or none"
        )
    inputs: list[dict[str, Any]] = []
    for place, tensor in enumerate(request.inputs):
        name, datatype, shape = tensor.name, tensor.datatype, list(tensor.shape)
        data = (
            data_from_raw(name, datatype, shape, raw[place])
            if raw
            else data_from_contents(name, datatype, shape, tensor.contents)
        )
        entry = {"name": name, "shape": shape, "datatype": datatype, "data": data}
        inputs.append(entry | _parameters(tensor.parameters))
    outputs = [{"name": each.name} | _parameters(each.parameters) for each in request.outputs]
    document: dict[str, Any] = {
        "id": request.id,
        "model_name": request.model_name,
        "inputs": inputs,
    }
    document |= _parameters(request.parameters)
    return msgspec.json.encode(document | ({"outputs": outputs} if outputs else {}))


def to_response(body: bytes, request: ModelInferRequest, *, version: str) -> ModelInferResponse:
    """A handler's answer; without the outputs that the client did not ask for, if it named some.

    Args:
        body: What the handler answered.
        request: What it answered to: raw bytes are answered with raw bytes.
        version: The version that answered.

    Raises:
        HandlerFailed: The answer is no inference response.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        response = ModelInferResponse(
            model_name=answer.model_name or request.model_name,
            model_version=answer.model_version or version,
            id=answer.id or request.id,
        )
        _add_parameters(response.parameters, answer.parameters)
        wanted = {each.name for each in request.outputs}
        for output in answer.outputs:
            if not wanted or output.name in wanted:
                _add_output(response, output, raw=bool(request.raw_input_contents))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise HandlerFailed(
            f"the handler's answer is no inference response: {error}; it should be JSON like "
            '{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]}',
            status=500,
        ) from error
    return response


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any]
    parameters: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    outputs: list[_Output]
    id: str = ""
    model_name: str = ""
    model_version: str = ""
    parameters: dict[str, Any] = {}


def _add_output(response: ModelInferResponse, output: _Output, *, raw: bool) -> None:
    tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
    _add_parameters(tensor.parameters, output.parameters)
    if raw:
        response.raw_output_contents.append(raw_from_data(output.datatype, output.data))
    else:
        tensor.contents.CopyFrom(contents_from_data(output.datatype, output.data))


def _parameters(given: Mapping[str, InferParameter]) -> dict[str, dict[str, Any]]:
    """`{"parameters": ...}`, or nothing."""
    values = {
        name: getattr(parameter, kind)
        for name, parameter in given.items()
        if (kind := parameter.WhichOneof("parameter_choice")) is not None
    }
    return {"parameters": values} if values else {}


def _add_parameters(target: Any, values: Mapping[str, Any]) -> None:  # noqa: ANN401  # a protobuf map
    for name, value in values.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            target[name].int64_param = value
        else:
            target[name].string_param = str(value)
