"""How the server listens: with TLS, on Unix sockets, and for several audiences at one address."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Generator
from pathlib import Path

import grpc
import httpx
import pytest

from flambeau.torchserve.grpc.protos.management_pb2 import SetDefaultRequest
from tests.integration.archives import service
from tests.integration.server import (
    PATIENCE_S,
    Server,
    free_port,
    running_server,
    wait_until,
)
from tests.torchserve.grpc.client import Client

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, as people would make them."""
    directory = tmp_path_factory.mktemp("certificate")
    paths = directory / "certificate.pem", directory / "key.pem"
    command = [
        *("openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=test"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        *("-out", str(paths[0]), "-keyout", str(paths[1])),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return paths


@pytest.fixture(scope="module")
def combined(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Generator[Server]:
    """Inference and management with TLS at one address, metrics on a Unix socket; serves echo."""
    directory = tmp_path_factory.mktemp("combined")
    service(directory, "echo")
    address = f"https://127.0.0.1:{free_port()}"
    with running_server(
        directory,
        *("--inference-address", address),
        *("--management-address", address),
        *("--metrics-address", f"unix:{directory / 'metrics.sock'}"),
        *("--certificate-file", str(certificate[0])),
        *("--private-key-file", str(certificate[1])),
        *("--cors-allowed-origin", "https://example.org"),
        *("--cors-allowed-methods", "GET, POST"),
        *("--host-names", "models.example", "metrics"),
        models=["echo-1.0.mar"],
        certificate=certificate[0],
    ) as server:
        yield server


def test_one_listener_serves_predictions_and_management(combined: Server) -> None:
    assert combined.inference.base_url == combined.management.base_url
    assert combined.inference.base_url.scheme == "https"
    assert combined.predict("echo", json={}).status_code == 200
    assert combined.describe("echo")["modelName"] == "echo"
    assert combined.inference.get("/ping").json() == {"status": "Healthy"}


def test_plain_http_to_a_tls_port_is_told_so(combined: Server) -> None:
    address = (combined.inference.base_url.host, combined.inference.base_url.port)
    with socket.create_connection((address[0], address[1] or 0), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while b'requests"\n}' not in answer:
            received = client.recv(4096)
            assert received
            answer += received
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b'{\n  "status": "This TorchServe instance only accepts HTTPS requests"\n}' in answer


def test_tls_older_than_1_2_is_refused(combined: Server) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.TransportError):
        httpx.get(combined.inference.base_url, verify=old, trust_env=False)


def test_every_answer_has_the_cors_headers(combined: Server) -> None:
    for response in (
        combined.predict("echo", json={}),
        combined.inference.post("/predictions/none"),
        combined.inference.options("/predictions/echo"),
        combined.management.get("/models"),
    ):
        assert response.headers["access-control-allow-origin"] == "https://example.org"
        assert response.headers["access-control-allow-methods"] == "GET, POST"
        assert "access-control-allow-headers" not in response.headers


def test_a_server_with_names_answers_to_no_other(combined: Server) -> None:
    """A page may have its own name lead here, and then reads what it gets as if it were its own."""
    for path in ("/ping", "/models", "/predictions/echo", "/api-description"):
        for host, is_known in (("models.example", True), ("rebound.example:8080", False)):
            answer = combined.management.get(path, headers={"host": host})
            assert (answer.status_code == 200) is is_known, (path, host)
            if not is_known:
                assert (answer.status_code, answer.json()["code"]) == (421, 421)


def test_metrics_are_read_from_a_unix_socket(combined: Server) -> None:
    path = combined.store / "metrics.sock"
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(transport=transport, base_url="http://metrics") as client:
        assert "flambeau_ready 1.0" in client.get("/metrics").text
    assert path.is_socket()


def test_a_socket_left_behind_is_replaced_and_removed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "inference.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert path.is_socket()
    with running_server(tmp_path, "--inference-address", f"unix:{path}", "--no-metrics-api"):
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://inference") as client:
            assert client.get("/ping").status_code == 200
    assert not os.path.lexists(path)


def test_without_a_certificate_one_is_made(tmp_path: Path) -> None:
    with running_server(
        tmp_path, "--inference-address", "https://127.0.0.1:0", "--no-metrics-api"
    ) as server:
        url = server.inference.base_url
        with httpx.Client(verify=False, trust_env=False) as client:  # noqa: S501  # it is self-signed
            assert client.get(f"{url}/ping").json() == {"status": "Healthy"}
        with pytest.raises(httpx.ConnectError, match="self-signed"):
            httpx.get(f"{url}/ping", trust_env=False)
        record = server.wait_record(lambda record: "self-signed" in record["message"])
        assert record["level"] == "WARNING"


def test_with_client_authorities_nobody_speaks_without_their_certificate(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    service(store, "echo")
    for name in ("server", "client", "stranger"):
        make_certificate(tmp_path, name)
    certificate = tmp_path / "server.pem"
    flags = {
        "certificate-file": certificate,
        "private-key-file": tmp_path / "server.key",
        "client-ca-file": tmp_path / "client.pem",
        "inference-address": "https://127.0.0.1:0",
        "management-address": "https://127.0.0.1:0",
        "grpc-inference-address": "https://127.0.0.1:0",
        "grpc-management-address": "https://127.0.0.1:0",
        "audit-log": tmp_path / "audit.jsonl",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with running_server(
        store, *words, models=["echo=echo-1.0.mar"], certificate=certificate, ready=False
    ) as server:
        ready = f"{server.management.base_url}/readyz"
        wait_until(
            lambda: ask_as(tmp_path, "client", "GET", ready).status_code == 200, what="it is ready"
        )
        url = f"{server.inference.base_url}/predictions/echo"
        assert ask_as(tmp_path, "client", "POST", url).status_code == 200
        for name in ("", "stranger"):
            with pytest.raises(httpx.TransportError):
                ask_as(tmp_path, name, "POST", url)
        target = server.grpc_target("grpc_inference").removeprefix("https://")
        with Client(target, credentials=credentials_of(tmp_path, "client")) as client:
            assert json.loads(client.predict("echo", {"data": b"1"}))
        with (
            Client(target, credentials=credentials_of(tmp_path, "stranger")) as client,
            pytest.raises(grpc.RpcError),
        ):
            client.predict("echo", {"data": b"1"})
        url = f"{server.management.base_url}/models/echo/1.0/set-default"
        assert ask_as(tmp_path, "client", "PUT", url).status_code == 200
        target = server.grpc_target("grpc_management").removeprefix("https://")
        with Client(target, credentials=credentials_of(tmp_path, "client")) as client:
            client.manage("SetDefault", SetDefaultRequest(model_name="echo", model_version="1.0"))
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [record["certificate"] for record in records] == ["CN=client"] * 2


def make_certificate(directory: Path, name: str) -> None:
    """`NAME.pem`, which signs itself, and `NAME.key`."""
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


def ask_as(directory: Path, name: str, method: str, url: str) -> httpx.Response:
    """Ask as the client of that name, or as one without a certificate."""
    context = ssl.create_default_context(cafile=directory / "server.pem")
    if name:
        context.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
    return httpx.request(method, url, json={}, verify=context, trust_env=False)


def credentials_of(directory: Path, name: str) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        (directory / "server.pem").read_bytes(),
        (directory / f"{name}.key").read_bytes(),
        (directory / f"{name}.pem").read_bytes(),
    )
