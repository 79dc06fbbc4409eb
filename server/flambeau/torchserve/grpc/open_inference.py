"""The Open Inference Protocol over gRPC, under its own name and under TorchServe's.

Tensors reach the handler as one JSON body, as they do over HTTP, and its answer is JSON, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

import flambeau
from flambeau.admission import handler_headers, reply_parts
from flambeau.errors import BadParameter
from flambeau.messages import InferenceRequest, Input
from flambeau.model_metadata import (
    EXTENSIONS,
    SERVER_NAME,
    TensorMetadata,
    is_model_ready,
    read_model_metadata,
)
from flambeau.registry import Registry
from flambeau.torchserve.grpc.edge import Call, Rpcs, Surroundings
from flambeau.torchserve.grpc.infer_json import to_json, to_response
from flambeau.torchserve.grpc.protos import torchserve_open_inference_pb2
from flambeau.torchserve.grpc.protos.open_inference_pb2 import (
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
from flambeau.torchserve.grpc.refusals import refuse_inference, refuse_lookup

_T = TypeVar("_T")
_LONG_BYTES = 64 << 10  # what takes the event loop more than about a millisecond to convert

STANDARD: Final = "inference.GRPCInferenceService"
TORCHSERVE: Final[str] = torchserve_open_inference_pb2.DESCRIPTOR.services_by_name[
    "GRPCInferenceService"
].full_name


class OpenInferenceService:
    """Answers `GRPCInferenceService`, whatever its package."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def handler(self, service: str, surroundings: Surroundings) -> grpc.GenericRpcHandler:
        """The service under one of its names, for a server."""
        rpcs = Rpcs(service, surroundings, refuse=refuse_lookup)
        rpcs.unary("ServerLive", ServerLiveRequest, self.server_live, is_open=True)
        rpcs.unary("ServerReady", ServerReadyRequest, self.server_ready, is_open=True)
        rpcs.unary("ServerMetadata", ServerMetadataRequest, self.server_metadata, is_open=True)
        rpcs.unary("ModelReady", ModelReadyRequest, self.model_ready)
        rpcs.unary("ModelMetadata", ModelMetadataRequest, self.model_metadata)
        rpcs.unary("ModelInfer", ModelInferRequest, self.infer, refuse=refuse_inference)
        return rpcs.handler()

    async def server_live(self, _: ServerLiveRequest, __: Call) -> ServerLiveResponse:
        """True while the event loop turns."""
        return ServerLiveResponse(live=True)

    async def server_ready(self, _: ServerReadyRequest, __: Call) -> ServerReadyResponse:
        """Whether every model can answer."""
        return ServerReadyResponse(ready=self._registry.is_ready)

    async def server_metadata(self, _: ServerMetadataRequest, __: Call) -> ServerMetadataResponse:
        """Who serves."""
        return ServerMetadataResponse(
            name=SERVER_NAME, version=flambeau.__version__, extensions=EXTENSIONS
        )

    async def model_ready(self, message: ModelReadyRequest, _: Call) -> ModelReadyResponse:
        """Whether one model can answer."""
        if not message.name:
            raise BadParameter("Parameter name is required.")
        version = self._registry.resolve(message.name, message.version or None)
        return ModelReadyResponse(ready=is_model_ready(version))

    async def model_metadata(self, message: ModelMetadataRequest, _: Call) -> ModelMetadataResponse:
        """A model's versions, inputs and outputs."""
        if not message.name:
            raise BadParameter("Parameter model_name is required.")
        found = await read_model_metadata(self._registry, message.name, message.version or None)
        return ModelMetadataResponse(
            name=found.name,
            versions=found.versions,
            platform=found.platform,
            inputs=map(_tensor, found.inputs),
            outputs=map(_tensor, found.outputs),
        )

    async def infer(self, message: ModelInferRequest, call: Call) -> ModelInferResponse:
        """Tensors in, tensors out; raw bytes are answered with raw bytes."""
        if not message.model_name:
            raise BadParameter("Parameter model_name is required.")
        given = bool(message.model_version)
        self._registry.resolve(message.model_name, message.model_version or None)
        body = await _converted(message, lambda: to_json(message))
        request = InferenceRequest(
            request_id=call.request_id,
            headers=handler_headers(call.metadata),
            inputs=[Input(name="body", content_type="application/json", body=memoryview(body))],
        )
        version = self._registry.resolve(message.model_name, message.model_version or None)
        parts = [part async for part in reply_parts(version, request, version_given=given)]
        answer = b"".join(part.body for part in parts)
        return await _converted(
            message, lambda: to_response(answer, message, version=version.version)
        )


async def _converted(message: Message, convert: Callable[[], _T]) -> _T:
    """Convert large tensors beside the event loop."""
    return await asyncio.to_thread(convert) if message.ByteSize() > _LONG_BYTES else convert()


def _tensor(spec: TensorMetadata) -> ModelMetadataResponse.TensorMetadata:
    return ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
