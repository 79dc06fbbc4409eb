"""A gRPC port's settings: TLS, tokens, what is offered, and its end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from flambeau.torchserve.grpc.protos.inference_pb2 import TorchServeHealthResponse
from flambeau.torchserve.grpc.protos.management_pb2 import (
    ListModelsRequest,
    RegisterModelRequest,
    UnregisterModelRequest,
)
from flambeau.torchserve.grpc.protos.open_inference_pb2 import (
    ServerLiveRequest,
    ServerLiveResponse,
)
from tests.integration.archives import service
from tests.integration.server import Server, running_server, serve_command, wait_until
from tests.torchserve.grpc.client import (
    HEALTH,
    INFERENCE,
    MANAGEMENT,
    OPEN_INFERENCE,
    Client,
    Metadata,
)
from tests.torchserve.grpc.models import make_held

pytestmark = pytest.mark.slow

REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:TRUE"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "key_file.json"


@pytest.fixture(scope="module")
def strict(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path], keys: Path
) -> Generator[Server]:
    """Serves echo over TLS to who has a token, without model API and Open Inference Protocol."""
    store = tmp_path_factory.mktemp("store")
    with running_server(
        store,
        *("--grpc-inference-address", "https://127.0.0.1:0"),
        *("--grpc-management-address", "https://127.0.0.1:0"),
        *("--certificate-file", str(certificate[0]), "--private-key-file", str(certificate[1])),
        *("--token-auth", "--key-file", str(keys)),
        *("--no-enable-model-api", "--no-open-inference-protocol"),
        models=[service(store, "echo").name],
    ) as running:
        yield running


def connected(server: Server, listener: str, certificate: tuple[Path, Path]) -> Client:
    trusted = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    target = server.grpc_target(listener).removeprefix("https://")
    return Client(target, credentials=trusted)


@pytest.fixture
def inference(strict: Server, certificate: tuple[Path, Path]) -> Generator[Client]:
    with connected(strict, "grpc_inference", certificate) as client:
        yield client


@pytest.fixture
def management(strict: Server, certificate: tuple[Path, Path]) -> Generator[Client]:
    with connected(strict, "grpc_management", certificate) as client:
        yield client


def token(keys: Path, role: str) -> Metadata:
    key = json.loads(keys.read_text(encoding="utf-8"))[role]["key"]
    return (("authorization", f"Bearer {key}"),)


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


def test_the_token_of_the_role_opens_the_port(
    inference: Client, management: Client, keys: Path
) -> None:
    answer = inference.predict("echo", {"data": b"x"}, metadata=token(keys, "inference"))
    assert json.loads(answer)["inputs"] == {"data": ["bytearray", "x"]}
    listed = management.manage(
        "ListModels", ListModelsRequest(), metadata=token(keys, "management")
    )
    assert json.loads(listed)["models"][0]["modelName"] == "echo"


@pytest.mark.parametrize("role", [None, "management"])
def test_a_call_without_the_role_s_token_is_refused(
    inference: Client, keys: Path, role: str | None
) -> None:
    shown = () if role is None else token(keys, role)
    with pytest.raises(grpc.RpcError) as caught:
        inference.predict("echo", {}, metadata=shown)
    assert refusal(caught.value) == (grpc.StatusCode.PERMISSION_DENIED, REFUSED)


def test_probes_need_no_token(inference: Client) -> None:
    answer = inference.call(f"{HEALTH}/Check", HealthCheckRequest(), HealthCheckResponse)
    assert answer.status == HealthCheckResponse.SERVING
    ping = inference.call(f"{INFERENCE}/Ping", Empty(), TorchServeHealthResponse)
    assert json.loads(ping.health) == {"status": "Healthy"}


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("RegisterModel", RegisterModelRequest(url="echo-1.0.mar")),
        ("UnregisterModel", UnregisterModelRequest(model_name="echo")),
    ],
)
def test_a_model_api_that_is_off_says_so(
    management: Client, keys: Path, method: str, request_: RegisterModelRequest
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        management.manage(method, request_, metadata=token(keys, "management"))
    assert refusal(caught.value) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "Model API disabled\norg.pytorch.serve.archive.model.ModelException",
    )


def test_the_open_inference_protocol_can_be_switched_off(
    strict: Server, inference: Client, keys: Path
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        inference.call(f"{OPEN_INFERENCE}/ServerLive", ServerLiveRequest(), ServerLiveResponse)
    assert refusal(caught.value)[0] == grpc.StatusCode.UNIMPLEMENTED
    headers = dict(token(keys, "inference"))
    assert strict.inference.get("/v2", headers=headers).status_code == 404


def test_the_ports_offer_what_they_are_for_only(inference: Client, keys: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        inference.manage("ListModels", ListModelsRequest(), metadata=token(keys, "inference"))
    assert refusal(caught.value)[0] == grpc.StatusCode.UNIMPLEMENTED, MANAGEMENT


def test_an_address_in_use_ends_the_start_with_its_name(strict: Server, tmp_path: Path) -> None:
    taken = strict.grpc_target("grpc_inference").removeprefix("https://")
    command = serve_command(tmp_path, "--grpc-inference-address", taken)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert f"grpc_inference_address {taken} cannot be bound" in done.stderr


def test_tls_without_a_certificate_ends_the_start(tmp_path: Path) -> None:
    command = serve_command(tmp_path, "--grpc-inference-address", "https://127.0.0.1:0")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "needs certificate_file and private_key_file" in done.stderr


def test_a_server_without_grpc_opens_no_port(tmp_path: Path) -> None:
    with running_server(tmp_path, "--no-grpc") as server:
        assert not [each for each in server.records() if "address" in each]


def test_a_server_that_stops_answers_the_calls_it_has_and_ends_watches(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    inputs = {"gate": str(gate).encode(), "name": b"last"}
    archive = make_held(tmp_path)
    with (
        running_server(tmp_path, models=[archive.name]) as server,
        Client(server.grpc_target("grpc_inference")) as client,
    ):
        watched = client.begin(f"{HEALTH}/Watch", HealthCheckRequest(), HealthCheckResponse)
        assert next(watched).status == HealthCheckResponse.SERVING
        last = server.in_thread(lambda: client.predict("held", inputs))
        wait_until(gate.with_name("last.started").exists, what="the worker is busy")
        server.stop(signal.SIGTERM)
        server.wait_record(lambda record: record["message"].startswith("stopping"))
        gate.touch()
        assert last.result() == b"1"
        assert [each.status for each in watched] == [HealthCheckResponse.NOT_SERVING]
        assert server.wait_ended() == 0


def test_a_second_signal_drops_the_calls_there_are(tmp_path: Path) -> None:
    inputs = {"gate": str(tmp_path / "gate").encode(), "name": b"last"}
    archive = make_held(tmp_path)
    with (
        running_server(tmp_path, models=[archive.name]) as server,
        Client(server.grpc_target("grpc_inference")) as client,
    ):
        last = server.in_thread(lambda: client.predict("held", inputs))
        wait_until((tmp_path / "last.started").exists, what="the worker is busy")
        server.stop(signal.SIGTERM)
        server.wait_record(lambda record: record["message"].startswith("stopping"))
        server.stop(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            last.result()
        assert server.wait_ended() == 0
