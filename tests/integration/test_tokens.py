"""Who may call what: every route of every listener, asked with every kind of credential."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import httpx
import pytest

from flambeau.address import Address
from flambeau.api.auth import Guard, GuardedRoute
from flambeau.api.openapi_answers import ANSWERS
from flambeau.api.operations import Operations
from flambeau.audience import Audience
from flambeau.cli import main
from flambeau.config import ServeConfig
from flambeau.devices import DeviceCycle
from flambeau.errors import ConfigError
from flambeau.key_file import Tokens
from flambeau.listening import routers_of
from flambeau.metrics import Metrics
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host
from flambeau.packages import PackageLoader
from flambeau.registry import Registry
from flambeau.services import ServerParts
from flambeau.store import ModelStore
from flambeau.tokens import Role
from flambeau.torchserve.grpc.management import SERVICE as MANAGEMENT_SERVICE
from flambeau.torchserve.grpc.protos.management_pb2 import SetDefaultRequest
from flambeau.torchserve.workflows.service import make_workflows
from tests.integration.archives import service
from tests.integration.server import Server, running_server, wait_until
from tests.torchserve.grpc.client import Client

Keys: TypeAlias = dict[str, str]
Headers: TypeAlias = list[tuple[str, str]]

TEXT = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
    *("TRACE", "CONNECT", "PROPFIND", "get"),
)
INFERENCE, MANAGEMENT, API = Role.INFERENCE, Role.MANAGEMENT, Role.API

# every route and whose key it asks for; one that is missing here fails a test below
OPEN_ROUTES = {"/", "/api-description", "/openapi.json", "/ping", "/livez", "/readyz"}
ROLES: dict[Audience, dict[str, Role | None]] = {
    Audience.INFERENCE: {
        "/predictions/{model_name}": INFERENCE,
        "/predictions/{model_name}/{model_version}": INFERENCE,
        "/predictions/{model_name}/{model_version}/{url_path:path}": INFERENCE,
        "/explanations/{model_name}": INFERENCE,
        "/explanations/{model_name}/{model_version}": INFERENCE,
        "/v1/models/{model_name}:predict": INFERENCE,
        "/v1/models/{model_name}:explain": INFERENCE,
        "/v2/models/{model_name}/infer": INFERENCE,
        "/v2/models/{model_name}/versions/{model_version}/infer": INFERENCE,
        "/v2/models/{model_name}/explain": INFERENCE,
        "/invocations": INFERENCE,
        "/models/{model_name}/invoke": INFERENCE,
        "/{model_name}/predict": INFERENCE,
        "/{model_name}/{model_version}/predict": INFERENCE,
        "/wfpredict/{workflow_name}": INFERENCE,
        "/v2": None,
        "/v2/health/live": None,
        "/v2/health/ready": None,
        "/v2/models/{model_name}": INFERENCE,
        "/v2/models/{model_name}/versions/{model_version}": INFERENCE,
        "/v2/models/{model_name}/ready": INFERENCE,
        "/v2/models/{model_name}/versions/{model_version}/ready": INFERENCE,
    },
    Audience.MANAGEMENT: {
        "/models": MANAGEMENT,
        "/models/{model_name}": MANAGEMENT,
        "/models/{model_name}/deploy": MANAGEMENT,
        "/models/{model_name}/{model_version}": MANAGEMENT,
        "/models/{model_name}/{model_version}/set-default": MANAGEMENT,
        "/v1/models/{model_name}": MANAGEMENT,
        "/workflows": MANAGEMENT,
        "/workflows/{workflow_name}": MANAGEMENT,
        "/token": API,
    },
    Audience.METRICS: {"/metrics": None},
}


def keys_in(path: Path) -> Keys:
    return {name: entry["key"] for name, entry in json.loads(path.read_text()).items()}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "key_file.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Generator[Server]:
    """Serves echo 1.0 on three listeners and asks for tokens; no test changes what it serves."""
    store = tmp_path_factory.mktemp("store")
    service(store, "echo")
    flags = ("--token-auth", "--open-inference-protocol", "--key-file", str(key_file))
    with running_server(store, *flags, models=["echo-1.0.mar"]) as running:
        yield running
    assert not key_file.exists()


@contextmanager
def shared_port(store: Path, key_file: Path, *flags: str) -> Generator[Server]:
    """A server with one port for inference and management."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = ("--inference-address", address, "--management-address", address)
    tokens = ("--token-auth", "--open-inference-protocol", "--key-file", str(key_file))
    with running_server(store, *both, *tokens, *flags) as running:
        yield running


def bearer(key: str) -> Headers:
    return [("authorization", f"Bearer {key}")]


def credentials(keys: Keys) -> dict[str, tuple[Role | None, Headers]]:
    """What a caller may show, and the role it proves."""
    return {
        "nothing": (None, []),
        "an empty header": (None, [("authorization", "")]),
        "Basic": (None, [("authorization", f"Basic {keys['inference']}")]),
        "garbage": (None, bearer("garbage")),
        "an old key": (None, bearer(keys["old"])),
        "inference": (INFERENCE, bearer(keys["inference"])),
        "management": (MANAGEMENT, bearer(keys["management"])),
        "API": (API, bearer(keys["API"])),
    }


@pytest.fixture(scope="module")
def keys(server: Server, key_file: Path) -> Keys:
    """The keys, and `old`: one that was valid until it was renewed."""
    before = keys_in(key_file)
    for kind in ("management", "inference"):
        headers = bearer(before["API"])
        renewed = server.management.get("/token", params={"type": kind}, headers=headers)
        assert (renewed.status_code, renewed.content) == (200, b"")
    after = keys_in(key_file)
    assert len({*before.values(), *after.values()}) == 5  # the third one stays
    return after | {"old": before["management"]}


def refusal(response: httpx.Response) -> int | None:
    """The status when a token was refused, None when the request got past that."""
    if response.status_code not in {400, 401, 403} or not response.content:
        return response.status_code if response.status_code in {401, 403} else None
    return response.status_code if "InvalidKeyException" in response.text else None


def filled(path: str) -> str:
    """A path that names no model, so that asking it changes nothing."""
    path = path.replace("{model_name}", "nobody").replace("{model_version}", "9")
    return path.replace("{url_path:path}", "a/b").replace("{workflow_name}", "nothing")


def test_the_table_above_has_every_route(tmp_path: Path) -> None:
    """Compared with the routers of the server, so that none is forgotten."""

    async def declared() -> dict[Audience, dict[str, Role | None]]:
        config = ServeConfig(
            token_auth=True,
            key_file=tmp_path / "keys",
            model_store=tmp_path,
            open_inference_protocol=True,
        )
        metrics = Metrics()
        with ModelStore(tmp_path) as store, Tokens.opened(config) as tokens:
            packages = PackageLoader(store, defaults=ModelSettings())
            registry = Registry(
                host=Host(devices=DeviceCycle(0), environment={}, max_response_bytes=1),
                metrics=metrics,
                drain_timeout_s=1,
                discard=packages.discard,
            )
            parts = ServerParts(
                config=config,
                registry=registry,
                packages=packages,
                operations=Operations(registry, packages, enable_model_api=True, default_workers=0),
                metrics=metrics,
                guard=Guard(None),
            )
            workflows = make_workflows(parts)
            assert workflows is not None
            return {
                audience: {
                    route.path: route.role
                    for router in routers
                    for route in router.routes
                    if isinstance(route, GuardedRoute)
                }
                for audience, routers in routers_of(parts, tokens, [workflows]).items()
            }

    assert asyncio.run(declared()) == ROLES


@pytest.mark.parametrize("audience", Audience)
def test_each_route_asks_for_its_own_key_whatever_the_method(
    server: Server, keys: Keys, audience: Audience
) -> None:
    client: httpx.Client = getattr(server, audience.value)
    wrong: list[str] = []
    for path, role in ROLES[audience].items():
        for method in METHODS:
            for name, (shown, headers) in credentials(keys).items():
                answer = client.request(method, filled(path), headers=headers)
                expected = None if role in {None, shown} else 403 if shown else 401
                if refusal(answer) != expected:
                    wrong.append(f"{method} {path} with {name}: {answer.status_code}")
                if role is not None and shown is not role and answer.is_success:
                    wrong.append(f"{method} {path} with {name} succeeded")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("audience", Audience)
def test_routes_of_other_listeners_are_not_there(
    server: Server, keys: Keys, audience: Audience
) -> None:
    client: httpx.Client = getattr(server, audience.value)
    theirs = [path for other in set(Audience) - {audience} for path in ROLES[other]]
    for path in theirs:
        for method in ("GET", "POST", "PUT", "DELETE"):
            for role in Role:
                headers = bearer(keys[role.value])
                answer = client.request(method, filled(path), headers=headers)
                assert not answer.is_success, f"{method} {path}"


@pytest.mark.parametrize("audience", Audience)
def test_health_and_the_api_document_are_open_everywhere(
    server: Server, audience: Audience
) -> None:
    client: httpx.Client = getattr(server, audience.value)
    for path in sorted(OPEN_ROUTES - {"/"}):
        assert client.get(path).status_code == 200, path
    assert client.options("/").status_code == 200
    assert client.get("/").status_code == 405
    assert "Flambeau" in client.get("/api-description").text or audience is not Audience.METRICS


@pytest.mark.parametrize("audience", Audience)
def test_the_api_document_tells_which_routes_ask_for_a_key(
    server: Server, audience: Audience
) -> None:
    client: httpx.Client = getattr(server, audience.value)
    roles = {path.replace(":path}", "}"): role for path, role in ROLES[audience].items()}
    document = client.options("/").json()
    assert document["components"]["securitySchemes"] == {
        "key": {"type": "http", "scheme": "bearer"}
    }
    for path, item in document["paths"].items():
        for operation in item.values():
            asks = roles.get(path) is not None
            assert operation.get("security", []) == [{"key": []}] * asks, path
            assert {"401", "403"}.issubset(operation["responses"]) is asks, path
            assert operation["operationId"] in ANSWERS


TRICKS = (
    # request targets that mean a guarded route to somebody
    *("/models", "/models/", "/models//", "/%6dodels", "/m%6Fdels/", "/models%2f", "/models%00"),
    *("//models", "/./models", "/ping/../models", "/ping/..;/models", "/ping%2f..%2fmodels"),
    *("/ping%2F%2E%2E%2Fmodels", "/%2e%2e/models", "/%2e/models", "/..%5cmodels", "/models;/ping"),
    *("/models;x=/ping", "/MODELS", "/models/.", "/models/%2e%2e", "/models?/ping", "/models?x#/"),
    *("/models%3f/ping", "/models%23/ping", "/models%20", "/models/ping", "/ping/models"),
    *("/token?type=inference", "/ping/../token?type=inference", "/tok%65n?type=inference"),
    *("/models/token", "/models/echo?x=/token", "/api-description/../models", "/models/echo/1.0"),
    *("/models/../ping/../models", "/readyz/../models/echo", "/openapi.json/../models"),
    *("http://127.0.0.1/models", "http://127.0.0.1/ping/../models", "http://ping@b/models"),
    *("/predictions/echo", "/predictions/echo/../../ping", "/predictions/echo/1.0/../../../ping"),
    *("/predictions/ping", "/ping/predict", "/v1/models/echo", "/v1/models/echo:predict"),
    *("/v1/models/echo%3apredict", "/models/echo/invoke", "/invocations", "/echo/predict"),
    *("*", "/models\\ping", "/models/..%2f..%2fping", "/%2fmodels", "/models/%252e%252e"),
)
HEADERS = (
    b"",
    b"X-Original-URL: /ping\r\n",
    b"X-Rewrite-URL: /ping\r\n",
    b"X-HTTP-Method-Override: OPTIONS\r\n",
    b"X-Forwarded-Prefix: /ping\r\nX-Forwarded-For: 127.0.0.1\r\n",
    b"Authorization: Bearer\r\n",
    b"Authorization: Bearer null\r\n",
    b"Cookie: authorization=Bearer x\r\n",
)


def raw_statuses(port: int, requests: bytes) -> list[int]:
    """Every status line that comes back until the server closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(requests)
        while chunk := connection.recv(65536):
            received += chunk
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    return [int(line.split()[1]) for line in lines]


def port_of(client: httpx.Client) -> int:
    assert client.base_url.port is not None
    return client.base_url.port


@pytest.mark.parametrize("headers", HEADERS, ids=lambda text: text.decode().partition(":")[0])
def test_no_spelling_of_an_address_gets_past_the_guard(server: Server, headers: bytes) -> None:
    for client in (server.inference, server.management):
        for target in TRICKS:
            for method in (b"GET", b"POST"):
                request = (
                    method + b" " + target.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                    b"Connection: close\r\nContent-Length: 0\r\n" + headers + b"\r\n"
                )
                statuses = raw_statuses(port_of(client), request)
                assert all(status >= 400 for status in statuses), (target, statuses)
                assert len(statuses) <= 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET /models HTTP/1.1\r\nHost: a/ping?\r\n",
        b"GET /models HTTP/1.1\r\nHost: 127.0.0.1/ping\r\n",
        b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: a\r\n",
        b"GET /models HTTP/1.1\r\n",
        b"GET /models HTTP/1.0\r\n",
        b"GET /models\r\n",
        b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization : Bearer x\r\n",
        b"OPTIONS /models HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"GET /ping?\r\n/models HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    ],
)
def test_no_odd_request_gets_past_the_guard(server: Server, head: bytes) -> None:
    request = head + b"Connection: close\r\n\r\n"
    assert all(status >= 400 for status in raw_statuses(port_of(server.management), request))


def test_two_authorization_headers_are_refused(server: Server, keys: Keys) -> None:
    both = [*bearer(keys["management"]), *bearer(keys["management"])]
    response = server.management.get("/models", headers=both)
    assert (response.status_code, response.json()["type"]) == (400, "BadRequestException")
    assert "send one" in response.json()["message"]


def test_the_right_keys_open_everything_and_handlers_do_not_see_them(
    server: Server, keys: Keys
) -> None:
    management, inference = bearer(keys["management"]), bearer(keys["inference"])
    assert server.management.get("/models", headers=management).json() == {
        "models": [{"modelName": "echo", "modelUrl": "echo-1.0.mar"}]
    }
    ready = server.management.get("/v1/models/echo", headers=management)
    assert ready.json() == {"name": "echo", "ready": True}
    answer = server.inference.post("/predictions/echo", json={"a": 1}, headers=inference)
    assert answer.status_code == 200
    assert "authorization" not in {name.lower() for name in answer.json()["headers"]}
    document = server.inference.options("/predictions/echo", headers=inference)
    assert document.json()["info"]["title"] == "RESTful API for: echo"


@pytest.mark.parametrize("kind", ["", "?type=", "?type=API", "?type=x", "?type=Management"])
def test_a_renewal_says_what_it_renews(server: Server, keys: Keys, kind: str) -> None:
    response = server.management.get(f"/token{kind}", headers=bearer(keys["API"]))
    assert response.status_code == 400
    assert "use management or inference" in response.json()["message"]


def test_the_command_line_shows_its_key(
    server: Server, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ["models", "--management-url", str(server.management.base_url)]
    assert main([*url, "list"]) == 2
    assert f"{TEXT}; give the management key" in capsys.readouterr().err
    assert main([*url, "--token", keys["inference"], "list"]) == 2
    assert "give the management key" in capsys.readouterr().err
    assert main([*url, "--token", keys["management"], "list"]) == 0
    assert "echo 1.0 ready" in capsys.readouterr().out


def test_keys_are_in_no_log_line_no_metric_and_no_error(
    server: Server, key_file: Path, keys: Keys
) -> None:
    everything = {*keys.values(), *keys_in(key_file).values()}
    said = "\n".join([*server.stderr.so_far(), *server.stdout.so_far()])
    shown = server.metrics.get("/metrics").text
    refused = server.management.get("/models", headers=bearer(keys["inference"])).text
    for key in everything:
        assert key not in said + shown + refused
        for process in server.processes():
            assert key not in " ".join([*process.cmdline(), *process.environ().values()])
    assert len(server.records()) > 1000  # the requests of this module have been logged


def test_on_a_shared_port_each_route_asks_for_its_own_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    service(tmp_path, "echo")
    with shared_port(tmp_path, path, "--models", "echo-1.0.mar") as server:
        found = keys_in(path) | {"old": "old"}
        client = server.inference
        assert client.base_url == server.management.base_url
        for audience in (Audience.INFERENCE, Audience.MANAGEMENT):
            for route, role in ROLES[audience].items():
                for name, (shown, headers) in credentials(found).items():
                    answer = client.get(filled(route), headers=headers)
                    expected = None if role in {None, shown} else 403 if shown else 401
                    assert refusal(answer) == expected, f"{route} with {name}"
        inference, management = bearer(found["inference"]), bearer(found["management"])
        assert client.post("/predictions/echo", json={}, headers=inference).status_code == 200
        assert client.get("/v1/models/echo", headers=management).json()["ready"] is True


def test_torchserves_status_is_400_for_everything(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    flags = ("--token-auth", "--token-status-400", "--key-file", str(path))
    with running_server(tmp_path, *flags) as server:
        found = keys_in(path)
        for headers in ([], bearer("x"), bearer(found["inference"])):
            response = server.management.get("/models", headers=headers)
            assert (response.status_code, response.json()) == (
                400,
                {"code": 400, "type": "InvalidKeyException", "message": TEXT},
            )
        refused = server.management.get("/token", headers=bearer(found["management"]))
        assert refused.json()["message"] == TEXT.replace("Authorization", "Authentication")
        assert server.inference.get("/ping").status_code == 200


def test_a_key_ends_and_is_renewed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    flags = ("--token-auth", "--token-expiration-min", "0.02", "--key-file", str(path))
    with running_server(tmp_path, *flags) as server:

        def status() -> int:
            key = keys_in(path)["management"]
            return server.management.get("/models", headers=bearer(key)).status_code

        wait_until(lambda: status() == 401, what="the key has ended")
        renewal = bearer(keys_in(path)["API"])
        old = keys_in(path)["management"]
        renewed = server.management.get("/token", params={"type": "management"}, headers=renewal)
        assert renewed.status_code == 200
        assert keys_in(path)["management"] != old
        assert status() == 200


@pytest.mark.parametrize("audience", ["management", "inference"])
@pytest.mark.parametrize("protocol", ["", "grpc_"])
def test_a_listener_for_others_needs_tokens_or_an_explicit_word(
    audience: str, protocol: str
) -> None:
    address: dict[str, Any] = {f"{protocol}{audience}_address": Address("0.0.0.0", 8081)}
    config = ServeConfig(token_auth=True, **address)
    with pytest.raises(ConfigError, match=f"ask for tokens .* or set allow_remote_{audience}"):
        replace(config, token_auth=False)
    allowed: dict[str, Any] = {f"allow_remote_{audience}": True}
    replace(config, token_auth=False, **allowed)


def test_who_changed_what_or_was_refused_is_on_record(tmp_path: Path) -> None:
    path, log = tmp_path / "keys.json", tmp_path / "audit.jsonl"
    store = tmp_path / "store"
    store.mkdir()
    service(store, "echo")
    flags = ("--token-auth", "--key-file", str(path), "--audit-log", str(log))
    with running_server(store, *flags, models=["echo=echo-1.0.mar"], ready=False) as server:
        keys = keys_in(path)
        key = bearer(keys["management"])
        manage = server.management
        wait_until(
            lambda: manage.get("/models/echo", headers=key).status_code == 200, what="echo is there"
        )
        scaled = manage.put("/models/echo", params={"min_worker": "1"}, headers=key)
        manage.request(
            "POST", "/models", json={"url": "https://x.example/a.mar?sig=s"}, headers=key
        )
        manage.post("/models/echo/deploy", params={"url": "echo-1.0.mar"}, headers=key)
        manage.get("/models")
        manage.delete("/models/echo", headers=bearer(keys["inference"]))
        manage.get("/token", params={"type": "inference"}, headers=bearer(keys["API"]))
        with Client(server.grpc_target("grpc_management")) as client, pytest.raises(grpc.RpcError):
            client.manage("SetDefault", SetDefaultRequest(model_name="echo", model_version="9"))
        refusals = server.samples("flambeau_token_refusals_total")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(record["call"], record["status"]) for record in records] == [
        ("PUT /models/echo", scaled.status_code),
        ("POST /models", 404),
        ("POST /models/echo/deploy", 409),
        ("GET /models", 401),
        ("DELETE /models/echo", 403),
        ("GET /token", 200),
        (f"gRPC {MANAGEMENT_SERVICE}/SetDefault", 7),
    ]
    first, second = records[:2]
    assert first["request_id"] == scaled.headers["x-request-id"]
    assert first["arguments"] == {"min_worker": "1"}
    assert second["arguments"] == {"url": "https://x.example/a.mar"}
    callers = [record["who"].rpartition(" ")[0] for record in records]
    assert callers == [*["management key"] * 3, "no valid", "inference key", "API key", "no valid"]
    assert first["who"] == second["who"]
    assert not any(key in log.read_text() for key in keys.values())
    assert refusals == {'role="management"': 3.0}
