"""TorchServe's management service; what it does is in `api/operations.py`."""

from __future__ import annotations

import grpc

from flambeau.api.operations import Operations
from flambeau.api.parameters import Parameters
from flambeau.errors import BadParameter
from flambeau.torchserve.grpc.edge import Call, Rpcs, Surroundings
from flambeau.torchserve.grpc.protos.management_pb2 import (
    DescribeModelRequest,
    ListModelsRequest,
    ManagementResponse,
    RegisterModelRequest,
    ScaleWorkerRequest,
    SetDefaultRequest,
    UnregisterModelRequest,
)
from flambeau.torchserve.grpc.refusals import refuse_management

SERVICE = "org.pytorch.serve.grpc.management.ManagementAPIsService"


class ManagementService:
    """Answers `ManagementAPIsService`."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def handler(self, surroundings: Surroundings) -> grpc.GenericRpcHandler:
        """The service, for a server."""
        rpcs = Rpcs(SERVICE, surroundings, refuse=refuse_management)
        rpcs.unary("DescribeModel", DescribeModelRequest, self.describe)
        rpcs.unary("ListModels", ListModelsRequest, self.list_models)
        rpcs.unary("RegisterModel", RegisterModelRequest, self.register, changes=True)
        rpcs.unary("ScaleWorker", ScaleWorkerRequest, self.scale, changes=True)
        rpcs.unary("SetDefault", SetDefaultRequest, self.set_default, changes=True)
        rpcs.unary("UnregisterModel", UnregisterModelRequest, self.unregister, changes=True)
        return rpcs.handler()

    async def describe(self, message: DescribeModelRequest, _: Call) -> ManagementResponse:
        """One version, or with version `all` every version, as JSON."""
        answer = await self._operations.describe(
            Parameters({"customized": message.customized}),
            _model(message.model_name),
            message.model_version or None,
        )
        return ManagementResponse(msg=answer.text)

    async def list_models(self, message: ListModelsRequest, _: Call) -> ManagementResponse:
        """Names of all models, in pages, as JSON."""
        parameters = Parameters(
            {"limit": message.limit, "next_page_token": message.next_page_token}
        )
        return ManagementResponse(msg=self._operations.list_models(parameters).text)

    async def register(self, message: RegisterModelRequest, _: Call) -> ManagementResponse:
        """Register an archive, and start its workers."""
        numbers = {
            "batch_size": message.batch_size,
            "max_batch_delay": message.max_batch_delay,
            "response_timeout": message.response_timeout,
            "startup_timeout": message.startup_timeout,
        }
        words = {
            "url": message.url,
            "model_name": message.model_name,
            "handler": message.handler,
            "runtime": message.runtime,
        }
        values: dict[str, object] = {
            "synchronous": message.synchronous,
            "s3_sse_kms": message.s3_sse_kms,
            **{name: number for name, number in numbers.items() if number > 0},
            **{name: word for name, word in words.items() if word},
        }
        if message.HasField("initial_workers") and message.initial_workers >= 0:
            values["initial_workers"] = message.initial_workers
        answer = await self._operations.register(Parameters(values))
        return ManagementResponse(msg=answer.text)

    async def scale(self, message: ScaleWorkerRequest, _: Call) -> ManagementResponse:
        """Change the number of a version's workers; a zero counts when it was sent."""
        values: dict[str, object] = {"synchronous": message.synchronous}
        if message.HasField("min_worker") and message.min_worker >= 0:
            values["min_worker"] = message.min_worker
        if message.HasField("max_worker") and message.max_worker >= 0:
            values["max_worker"] = message.max_worker
        answer = await self._operations.scale(
            Parameters(values), _model(message.model_name), message.model_version or None
        )
        return ManagementResponse(msg=answer.text)

    async def set_default(self, message: SetDefaultRequest, _: Call) -> ManagementResponse:
        """Let a version answer by default."""
        answer = await self._operations.set_default(
            _model(message.model_name), message.model_version
        )
        return ManagementResponse(msg=answer.text)

    async def unregister(self, message: UnregisterModelRequest, _: Call) -> ManagementResponse:
        """Drain and remove a version."""
        answer = await self._operations.unregister(
            _model(message.model_name), message.model_version or None
        )
        return ManagementResponse(msg=answer.text)


def _model(name: str) -> str:
    """The model that a call is about.

    Raises:
        BadParameter: It names none.
    """
    if not name:
        raise BadParameter("Parameter model_name is required.")
    return name
