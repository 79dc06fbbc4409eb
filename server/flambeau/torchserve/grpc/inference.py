"""TorchServe's inference service: predictions, whole, in parts, or as a conversation."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from google.protobuf.empty_pb2 import Empty

from flambeau.admission import handler_headers, reply_parts
from flambeau.config import ServeConfig
from flambeau.errors import BadParameter
from flambeau.messages import InferenceRequest, Input, Reply
from flambeau.model_version import ModelVersion
from flambeau.registry import Registry
from flambeau.torchserve.grpc.conversation import Conversation
from flambeau.torchserve.grpc.edge import Call, Rpcs, Surroundings
from flambeau.torchserve.grpc.protos.inference_pb2 import (
    PredictionResponse,
    PredictionsRequest,
    TorchServeHealthResponse,
)
from flambeau.torchserve.grpc.refusals import refuse_inference

SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"


class InferenceService:
    """Answers `InferenceAPIsService`."""

    def __init__(self, registry: Registry, config: ServeConfig) -> None:
        self._registry = registry
        self._id_header = config.sequence_id_header.lower()
        self._start_header = config.sequence_start_header.lower()

    def handler(self, surroundings: Surroundings) -> grpc.GenericRpcHandler:
        """The service, for a server."""
        rpcs = Rpcs(SERVICE, surroundings, refuse=refuse_inference)
        rpcs.unary("Ping", Empty, self.ping, is_open=True)
        rpcs.unary("Predictions", PredictionsRequest, self.predict)
        rpcs.unary_stream("StreamPredictions", PredictionsRequest, self.stream)
        rpcs.stream_stream("StreamPredictions2", PredictionsRequest, self.converse)
        return rpcs.handler()

    async def ping(self, _: Empty, __: Call) -> TorchServeHealthResponse:
        """TorchServe's health check: unhealthy once a model has lost workers for good."""
        status = "Healthy" if self._registry.is_healthy else "Unhealthy"
        return TorchServeHealthResponse(health=json.dumps({"status": status}, indent=2))

    async def predict(self, message: PredictionsRequest, call: Call) -> PredictionResponse:
        """The whole answer to one request, also where the handler sends it in parts."""
        version = self.resolve(message)
        request = self.request(message, call)
        given = bool(message.model_version)
        parts = [part async for part in reply_parts(version, request, version_given=given)]
        _note_reply(parts[0], version, call)
        body = bytes(parts[0].body) if len(parts) == 1 else b"".join(p.body for p in parts)
        return PredictionResponse(prediction=body, sequence_id=self._sequence_of(parts[0]))

    async def stream(
        self, message: PredictionsRequest, call: Call
    ) -> AsyncGenerator[PredictionResponse, None]:
        """The answer to one request, part by part."""
        version = self.resolve(message)
        request, given = self.request(message, call), bool(message.model_version)
        async with aclosing(reply_parts(version, request, version_given=given)) as parts:
            async for part in parts:
                _note_reply(part, version, call)
                yield PredictionResponse(
                    prediction=bytes(part.body), sequence_id=self._sequence_of(part)
                )

    async def converse(
        self, messages: AsyncIterator[PredictionsRequest], call: Call
    ) -> AsyncGenerator[PredictionResponse, None]:
        """Answers to many requests of one sequence, in their order."""
        async with aclosing(Conversation(self, call).answers(messages)) as answers:
            async for answer in answers:
                yield answer

    def resolve(self, message: PredictionsRequest) -> ModelVersion:
        """The version a request is for.

        Raises:
            BadParameter: It names no model.
            ModelNotFound, ModelVersionNotFound: No such entry.
        """
        if not message.model_name:
            raise BadParameter("Parameter model_name is required.")
        return self._registry.resolve(message.model_name, message.model_version or None)

    def request(
        self, message: PredictionsRequest, call: Call, *, starts_sequence: bool = False
    ) -> InferenceRequest:
        """A request as workers see it; metadata takes the place of HTTP's headers."""
        headers = handler_headers(call.metadata)
        if message.sequence_id:
            headers.append((self._id_header, message.sequence_id))
        if starts_sequence and self._start_header not in dict(headers):
            headers.append((self._start_header, "true"))
        inputs = [
            Input(name=name, content_type=None, body=memoryview(value))
            for name, value in message.input.items()
        ]
        return InferenceRequest(request_id=call.request_id, headers=headers, inputs=inputs)

    def _sequence_of(self, reply: Reply) -> str | None:
        """The sequence that the answer names, as one that began with this request does."""
        found = (value for name, value in reply.headers if name.lower() == self._id_header)
        return next(found, None)


def _note_reply(reply: Reply, version: ModelVersion, call: Call) -> None:
    """What HTTP says in headers: which version answered, and the status the handler chose."""
    if version.version.isascii() and version.version.isprintable():  # versions are free text
        call.trailers["x-model-version"] = version.version
    if version.shown_digest:
        call.trailers["x-archive-digest"] = version.shown_digest
    if reply.status != 200:
        call.trailers["x-status"] = str(reply.status)
