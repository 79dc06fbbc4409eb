"""What the management listener says of models, of their handlers and of itself."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from flambeau.testing import make_archive
from tests.integration.archives import service
from tests.integration.server import Server, running_server, wait_until

SPEECHLESS = """
    def handle(data, context):
        return [data[0]["body"]] if data else None
"""
UNAWARE = """
    def handle(data, context):
        return ["no JSON"] * len(data or [])
"""
DESCRIBING = """
    class Handler:
        def initialize(self, context):
            pass

        def handle(self, data, context):
            if context.get_request_header(0, "describe") == "True":
                return [{"labels": ["cat", "dog"], "rows": data}]
            return ["an answer"] * len(data)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    store = tmp_path_factory.mktemp("store")
    archives = [
        make_archive(store, name="describing", handler=DESCRIBING),
        make_archive(store, name="speechless", handler=SPEECHLESS),
        make_archive(store, name="unaware", handler=UNAWARE),
    ]
    with running_server(store, models=[archive.name for archive in archives]) as running:
        yield running


@pytest.mark.parametrize("path", ["/models/describing", "/models/describing/1.0"])
def test_a_handler_describes_itself_when_it_is_asked(server: Server, path: str) -> None:
    (described,) = server.management.get(path, params={"customized": "true"}).json()
    assert described["modelName"] == "describing"
    assert described["customizedMetadata"] == {"labels": ["cat", "dog"], "rows": [{}]}
    for query in ({}, {"customized": "false"}, {"customized": "1"}):
        (plain,) = server.management.get(path, params=query).json()
        assert "customizedMetadata" not in plain


def test_a_handler_that_does_not_know_the_question_describes_nothing(server: Server) -> None:
    (described,) = server.management.get("/models/unaware", params={"customized": "true"}).json()
    assert described["customizedMetadata"] == {}


def test_a_handler_that_fails_at_the_question_is_an_error(server: Server) -> None:
    response = server.management.get("/models/speechless", params={"customized": "TRUE"})
    document = response.json()
    assert (response.status_code, document["type"]) == (500, "InternalServerException")
    assert document["message"] == "Failed to get customized model matadata."
    assert document["reason"] == "Prediction failed"
    assert server.predict("speechless", json={"a": 1}).json() == {"a": 1}


def test_a_model_is_ready_for_kserve_once_a_worker_is_and_not_before(server: Server) -> None:
    def ready() -> tuple[int, object]:
        response = server.management.get("/v1/models/waiting")
        return response.status_code, response.json()

    missing, document = ready()
    assert missing == 404
    assert document == {
        "code": 404,
        "type": "ModelNotFoundException",
        "message": "Model not found: waiting",
    }
    archive = service(server.store, "echo", name="waiting")
    assert server.register(archive, synchronous="false").status_code == 202
    assert ready() == (200, {"name": "waiting", "ready": False})
    wait_until(lambda: ready() == (200, {"name": "waiting", "ready": True}), what="it is ready")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert server.management.request(method, "/v1/models/waiting").status_code == 405
    assert server.inference.get("/v1/models/waiting").status_code == 404
    assert server.management.delete("/models/waiting/").status_code == 200


def test_scaling_that_loses_a_worker_on_the_way_is_partial(server: Server, tmp_path: Path) -> None:
    yaml = f"handler: {{first: {tmp_path / 'first'}}}\n"
    archive = service(server.store, "deadly", yaml=yaml)
    assert server.register(archive).status_code == 200
    up = server.management.put("/models/deadly", params={"min_worker": 2, "synchronous": "true"})
    assert (up.status_code, up.json()) == (206, {"status": "Workers scaling in progress..."})
    wait_until(lambda: len(server.pids("deadly")) == 2, what="the lost one has been replaced")
    assert server.management.delete("/models/deadly").status_code == 200


def test_a_registration_may_be_json_in_single_quotes(server: Server) -> None:
    archive = service(server.store, "echo", name="quoted")
    body = f"{{'url': '{archive.name}', 'batch_size': '3', 'synchronous': True}}"
    headers = {"content-type": "application/json; charset=utf-8"}
    response = server.management.post("/models", content=body, headers=headers)
    assert response.status_code == 200
    described = server.describe("quoted")
    assert (described["batchSize"], described["maxBatchDelay"]) == (3, 100)
    scaled = server.management.put(
        "/models/quoted?min_worker=0&synchronous=true", headers=headers, content=b""
    )
    assert scaled.json() == {"status": "Workers scaled to 0 for model: quoted"}
    assert server.management.delete("/models/quoted").status_code == 200


OPERATIONS = {
    "/": {"options": "apiDescription"},
    "/models": {"get": "listModels", "post": "registerModel"},
    "/models/{model_name}": {
        "get": "describeModel",
        "put": "setAutoScale",
        "delete": "unregisterModel",
    },
    "/models/{model_name}/{model_version}": {
        "get": "version_describeModel",
        "put": "version_setAutoScale",
        "delete": "version_unregisterModel",
    },
    "/models/{model_name}/{model_version}/set-default": {"put": "setDefault"},
    "/api-description": {"get": "api-description"},
    "/metrics": {"get": "metrics"},
}


def test_the_api_document_has_torchserves_title_and_operations(server: Server) -> None:
    document = server.management.options("/").json()
    assert (document["openapi"], document["info"]["title"]) == ("3.0.1", "TorchServe APIs")
    for path, operations in OPERATIONS.items():
        found = {method: each["operationId"] for method, each in document["paths"][path].items()}
        assert found == operations, path
    parameters = document["paths"]["/models"]["post"]["parameters"]
    assert {"url", "model_name", "handler", "runtime", "batch_size", "max_batch_delay"} <= {
        parameter["name"] for parameter in parameters
    }
    assert "HTTPValidationError" not in server.management.options("/").text  # FastAPI's
    assert server.management.get("/api-description").json() == document
    inference = server.inference.options("/").json()
    assert inference["info"]["title"] == "TorchServe APIs"
    assert inference["paths"]["/predictions/{model_name}"]["post"]["operationId"] == "predictions"
    assert inference["paths"]["/ping"]["get"]["operationId"] == "ping"


def test_a_model_has_a_document_of_its_own(server: Server) -> None:
    for path in ("/models/describing", "/models/describing/1.0"):
        document = server.management.options(path).json()
        assert document["info"]["title"] == "RESTful Management API for: describing"
        assert set(document["paths"]) == {
            "/models/{model_name}",
            "/models/{model_name}/deploy",
            "/models/{model_name}/{model_version}",
            "/models/{model_name}/{model_version}/set-default",
        }
    assert server.management.options("/models/nobody").status_code == 404
    assert server.management.options("/models/describing/9").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 405),
        ("PUT", "/models", 405),
        ("DELETE", "/models", 405),
        ("POST", "/models/describing", 405),
        ("PATCH", "/models/describing/1.0", 405),
        ("GET", "/models/describing/1.0/set-default", 405),
        ("GET", "/models/describing/1.0/other", 404),
        ("PUT", "/models/describing/1.0/set-default/more", 404),
        ("GET", "/unknown", 404),
        ("GET", "/predictions/describing", 404),
        ("GET", "/token", 404),  # nobody asks for tokens here
    ],
)
def test_unknown_paths_and_methods_have_torchserves_texts(
    server: Server, method: str, path: str, code: int
) -> None:
    what, kind = {
        404: ("resource is not found", "ResourceNotFoundException"),
        405: ("method is not allowed", "MethodNotAllowedException"),
    }[code]
    response = server.management.request(method, path)
    assert (response.status_code, response.json()) == (
        code,
        {
            "code": code,
            "type": kind,
            "message": f"Requested {what}, please refer to API document.",
        },
    )


def test_a_slash_at_the_end_changes_nothing(server: Server) -> None:
    for path in ("/models", "/models/describing", "/models/describing/all", "/ping"):
        with_slash = server.management.get(path + "/")
        assert with_slash.status_code == server.management.get(path).status_code == 200
    assert server.inference.post("/predictions/describing/", json={}).text == "an answer"
