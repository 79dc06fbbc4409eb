"""A gRPC client as TorchServe's users have it: the calls of one port, over a real connection.

with Client(server.grpc_target("grpc_inference")) as client:
    client.predict("echo", {"data": b"..."})
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from flambeau.torchserve.grpc.protos.inference_pb2 import PredictionResponse, PredictionsRequest
from flambeau.torchserve.grpc.protos.management_pb2 import ManagementResponse
from tests.integration.server import PATIENCE_S

INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
HEALTH = "grpc.health.v1.Health"
OPEN_INFERENCE = "inference.GRPCInferenceService"
TORCHSERVE_OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"

_M = TypeVar("_M", bound=Message)
Inputs: TypeAlias = Mapping[str, bytes]
Metadata: TypeAlias = tuple[tuple[str, str], ...]
Called: TypeAlias = Any  # what the library gives: an iterator, a call and a future in one


class Client:
    """Calls over one connection."""

    def __init__(self, target: str, *, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.channel = (
            grpc.insecure_channel(target)
            if credentials is None
            else grpc.secure_channel(target, credentials)
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.channel.close()

    def call(
        self,
        path: str,
        request: Message,
        response: type[_M],
        *,
        metadata: Metadata = (),
        timeout_s: float = PATIENCE_S,
    ) -> _M:
        """One message each way; `path` is service and method."""
        multi = self.channel.unary_unary(
            f"/{path}",
            request_serializer=_to_bytes,
            response_deserializer=response.FromString,
        )
        answer: _M = multi(request, metadata=metadata, timeout=timeout_s)
        return answer

    def begin(
        self, path: str, request: Message, response: type[Message], *, metadata: Metadata = ()
    ) -> Called:
        """One message there, many back, as they come."""
        multi = self.channel.unary_stream(
            f"/{path}",
            request_serializer=_to_bytes,
            response_deserializer=response.FromString,
        )
        return multi(request, metadata=metadata, timeout=PATIENCE_S)

    def converse(self, requests: Iterable[PredictionsRequest]) -> Iterator[PredictionResponse]:
        """StreamPredictions2."""
        multi = self.channel.stream_stream(
            f"/{INFERENCE}/StreamPredictions2",
            request_serializer=_to_bytes,
            response_deserializer=PredictionResponse.FromString,
        )
        answers: Iterator[PredictionResponse] = multi(iter(requests), timeout=PATIENCE_S)
        return answers

    def predict(
        self, model: str, inputs: Inputs, *, version: str = "", metadata: Metadata = ()
    ) -> bytes:
        """Predictions; the answer's bytes."""
        request = PredictionsRequest(model_name=model, model_version=version, input=inputs)
        path = f"{INFERENCE}/Predictions"
        return self.call(path, request, PredictionResponse, metadata=metadata).prediction

    def stream(self, model: str, inputs: Inputs) -> Called:
        """StreamPredictions."""
        request = PredictionsRequest(model_name=model, input=inputs)
        return self.begin(f"{INFERENCE}/StreamPredictions", request, PredictionResponse)

    def manage(self, method: str, request: Message, *, metadata: Metadata = ()) -> str:
        """One call of the management service; the answer's text."""
        path = f"{MANAGEMENT}/{method}"
        return self.call(path, request, ManagementResponse, metadata=metadata).msg


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
