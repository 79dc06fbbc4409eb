"""The standard health service, and reflection."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.integration.server import Server
from tests.torchserve.grpc.client import (
    HEALTH,
    INFERENCE,
    MANAGEMENT,
    OPEN_INFERENCE,
    TORCHSERVE_OPEN_INFERENCE,
    Client,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("service", ["", INFERENCE, OPEN_INFERENCE, HEALTH])
def test_a_server_that_is_ready_serves(client: Client, service: str) -> None:
    request = HealthCheckRequest(service=service)
    answer = client.call(f"{HEALTH}/Check", request, HealthCheckResponse)
    assert answer.status == HealthCheckResponse.SERVING


def test_a_service_that_is_not_here_is_not_found(client: Client) -> None:
    request = HealthCheckRequest(service=MANAGEMENT)
    with pytest.raises(grpc.RpcError) as caught:
        client.call(f"{HEALTH}/Check", request, HealthCheckResponse)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watched = client.begin(f"{HEALTH}/Watch", request, HealthCheckResponse)
    assert next(watched).status == HealthCheckResponse.SERVICE_UNKNOWN
    watched.cancel()


def test_who_watches_hears_the_state_at_once(client: Client) -> None:
    watched = client.begin(f"{HEALTH}/Watch", HealthCheckRequest(), HealthCheckResponse)
    assert next(watched).status == HealthCheckResponse.SERVING
    watched.cancel()


def test_reflection_names_what_each_port_offers(server: Server, client: Client) -> None:
    reflection = "grpc.reflection.v1alpha.ServerReflection"
    ports = {"inference": set(ProtoReflectionDescriptorDatabase(client.channel).get_services())}
    with Client(server.grpc_target("grpc_management")) as management:
        database = ProtoReflectionDescriptorDatabase(management.channel)
        ports["management"] = set(database.get_services())
    standard = {HEALTH, reflection}
    assert ports == {
        "inference": {INFERENCE, OPEN_INFERENCE, TORCHSERVE_OPEN_INFERENCE, *standard},
        "management": {MANAGEMENT, *standard},
    }


def test_reflection_describes_the_messages(client: Client) -> None:
    database = ProtoReflectionDescriptorDatabase(client.channel)
    file = database.FindFileContainingSymbol(INFERENCE)
    (request,) = [each for each in file.message_type if each.name == "PredictionsRequest"]
    assert {field.name: field.number for field in request.field} == {
        "model_name": 1,
        "model_version": 2,
        "input": 3,
        "sequence_id": 4,
    }
