"""Models registered, scaled, described and removed over gRPC, in the words that HTTP uses."""

from __future__ import annotations

import json
from collections.abc import Generator

import grpc
import pytest
from google.protobuf.message import Message

from flambeau.testing import make_archive
from flambeau.torchserve.grpc.protos.management_pb2 import (
    DescribeModelRequest,
    ListModelsRequest,
    RegisterModelRequest,
    ScaleWorkerRequest,
    SetDefaultRequest,
    UnregisterModelRequest,
)
from tests.integration.server import Server
from tests.torchserve.grpc.client import Client

pytestmark = pytest.mark.slow

HTTP, MODEL = "org.pytorch.serve.http", "org.pytorch.serve.archive.model"
HINT = "Use scale workers API to add workers for the model."


@pytest.fixture(scope="module")
def management(server: Server) -> Generator[Client]:
    """A connection to the management port."""
    with Client(server.grpc_target("grpc_management")) as connected:
        yield connected


@pytest.fixture
def guest(management: Client) -> Generator[str]:
    """A model of the test's own, registered without workers; removed at the end."""
    name = "guest"
    management.manage("RegisterModel", RegisterModelRequest(url="echo-1.0.mar", model_name=name))
    yield name
    management.manage("UnregisterModel", UnregisterModelRequest(model_name=name))


def failure(client: Client, method: str, request: Message) -> tuple[grpc.StatusCode, list[str]]:
    """Status and description lines of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        client.manage(method, request)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), (caught.value.details() or "").split("\n")


def test_a_list_is_what_http_shows(server: Server, management: Client) -> None:
    listed = management.manage("ListModels", ListModelsRequest())
    assert listed + "\n" == server.management.get("/models").text
    first = json.loads(management.manage("ListModels", ListModelsRequest(limit=2)))
    rest = ListModelsRequest(next_page_token=int(first["nextPageToken"]))
    names = [each["modelName"] for each in first["models"]]
    names += [
        each["modelName"] for each in json.loads(management.manage("ListModels", rest))["models"]
    ]
    assert names == [each["modelName"] for each in json.loads(listed)["models"]]


@pytest.mark.parametrize("version", ["", "2.0", "all"])
def test_a_description_is_what_http_shows(server: Server, management: Client, version: str) -> None:
    request = DescribeModelRequest(model_name="echo", model_version=version)
    told = json.loads(management.manage("DescribeModel", request))
    shown = server.management.get(f"/models/echo/{version}".rstrip("/")).json()
    for document in (*told, *shown):
        for worker in document["workers"]:
            worker.pop("memoryUsage")  # differs from moment to moment
    assert told == shown


def test_a_model_lives_from_registration_to_removal(management: Client) -> None:
    def texts() -> Generator[str]:
        register = RegisterModelRequest(
            url="echo-1.0.mar", model_name="pet", initial_workers=1, synchronous=True
        )
        yield management.manage("RegisterModel", register)
        yield management.manage(
            "RegisterModel", RegisterModelRequest(url="echo-2.0.mar", model_name="pet")
        )
        yield management.manage(
            "ScaleWorker",
            ScaleWorkerRequest(
                model_name="pet", model_version="2.0", min_worker=1, synchronous=True
            ),
        )
        yield management.manage(
            "SetDefault", SetDefaultRequest(model_name="pet", model_version="2.0")
        )
        one = UnregisterModelRequest(model_name="pet", model_version="1.0")
        yield management.manage("UnregisterModel", one)
        yield management.manage("UnregisterModel", UnregisterModelRequest(model_name="pet"))

    assert list(texts()) == [
        'Model "pet" Version: 1.0 registered with 1 initial workers',
        f'Model "pet" Version: 2.0 registered with 0 initial workers. {HINT}',
        "Workers scaled to 1 for model: pet, version: 2.0",
        'Default version successfully updated for model "pet" to "2.0"',
        'Model "pet" unregistered',
        'Model "pet" unregistered',
    ]


def test_calls_that_are_not_synchronous_are_answered_at_once(
    management: Client, guest: str
) -> None:
    request = ScaleWorkerRequest(model_name=guest)
    assert management.manage("ScaleWorker", request) == "Processing worker updates..."


def test_numbers_of_a_registration_count_when_they_are_above_zero(
    server: Server, management: Client
) -> None:
    request = RegisterModelRequest(
        url="held-1.0.mar", model_name="sized", batch_size=2, max_batch_delay=0, response_timeout=7
    )
    management.manage("RegisterModel", request)
    shown = server.describe("sized")
    management.manage("UnregisterModel", UnregisterModelRequest(model_name="sized"))
    keys = ("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout")
    assert [shown[key] for key in keys] == [2, 100, 7, 120]


def test_a_zero_that_is_sent_scales_to_zero(server: Server, management: Client, guest: str) -> None:
    def scale(request: ScaleWorkerRequest) -> int:
        management.manage("ScaleWorker", request)
        return len(server.describe(guest)["workers"])

    assert scale(ScaleWorkerRequest(model_name=guest, synchronous=True)) == 1
    none = ScaleWorkerRequest(model_name=guest, min_worker=0, max_worker=0, synchronous=True)
    assert scale(none) == 0


@pytest.mark.parametrize(
    ("method", "request_", "code", "lines"),
    [
        (
            "DescribeModel",
            DescribeModelRequest(model_name="nobody"),
            grpc.StatusCode.NOT_FOUND,
            ["Model not found: nobody", f"{MODEL}.ModelNotFoundException"],
        ),
        (
            "SetDefault",
            SetDefaultRequest(model_name="echo", model_version="9"),
            grpc.StatusCode.NOT_FOUND,
            [
                "Model version 9 does not exist for model echo",
                f"{MODEL}.ModelVersionNotFoundException",
            ],
        ),
        (
            "RegisterModel",
            RegisterModelRequest(),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["Parameter url is required.", f"{HTTP}.BadRequestException"],
        ),
        (
            "RegisterModel",
            RegisterModelRequest(url="echo-1.0.mar", runtime="cobol"),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["Invalid RuntimeType value: cobol", f"{HTTP}.BadRequestException"],
        ),
        (
            "RegisterModel",
            RegisterModelRequest(url="echo-1.0.mar"),
            grpc.StatusCode.ALREADY_EXISTS,
            [
                "Model version 1.0 is already registered for model echo",
                f"{HTTP}.ConflictStatusException",
            ],
        ),
        (
            "ScaleWorker",
            ScaleWorkerRequest(model_name="echo", min_worker=2, max_worker=1),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["max_worker cannot be less than min_worker.", f"{HTTP}.BadRequestException"],
        ),
        (
            "UnregisterModel",
            UnregisterModelRequest(model_name="echo", model_version="1.0"),
            grpc.StatusCode.FAILED_PRECONDITION,
            [
                "Cannot remove default version for model echo",
                f"{HTTP}.InvalidModelVersionException",
            ],
        ),
        (
            "UnregisterModel",
            UnregisterModelRequest(),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["Parameter model_name is required.", f"{HTTP}.BadRequestException"],
        ),
    ],
)
def test_what_cannot_be_done_has_a_status_and_torchserve_s_exception(
    management: Client, method: str, request_: Message, code: grpc.StatusCode, lines: list[str]
) -> None:
    assert failure(management, method, request_) == (code, lines)


def test_workers_that_do_not_start_are_told_with_the_cause_beside(
    server: Server, management: Client
) -> None:
    make_archive(
        server.store, name="broken", handler="def handle(data, context):\n    raise OSError('gone')"
    )
    request = RegisterModelRequest(url="broken-1.0.mar", initial_workers=1, synchronous=True)
    with pytest.raises(grpc.RpcError) as caught:
        management.manage("RegisterModel", request)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert caught.value.details() == (
        "Failed to start workers for model broken version: 1.0\n"
        "org.pytorch.serve.http.InternalServerException"
    )
    trailers = caught.value.trailing_metadata() or ()
    (reason,) = [pair.value for pair in trailers if pair.key == "x-reason"]
    assert "OSError: gone" in str(reason)


def test_an_archive_that_is_not_there_is_not_found(management: Client) -> None:
    code, lines = failure(management, "RegisterModel", RegisterModelRequest(url="lost.mar"))
    assert code == grpc.StatusCode.NOT_FOUND
    assert lines[-1] == f"{MODEL}.ModelNotFoundException"
