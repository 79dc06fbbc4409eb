from __future__ import annotations

import io
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import torch

from tests.integration.server import JSON, Server, wait_until


def inputs(response: httpx.Response) -> JSON:
    """What the echo handler says that it got: type and content by input."""
    assert response.status_code == 200, response.text
    return dict(response.json()["inputs"])


def test_without_a_version_the_default_version_answers(server: Server) -> None:
    assert server.predict("echo", json={}).json()["version"] == "1.0"


def test_a_version_in_the_path_answers_itself(server: Server) -> None:
    versions = [
        server.predict("echo", json={}, version=v).json()["version"] for v in ("1.0", "2.0")
    ]
    assert versions == ["1.0", "2.0"]


def test_an_answer_names_the_version_it_is_from(server: Server) -> None:
    responses = [server.predict("echo", json={}, version=version) for version in (None, "2.0")]
    assert [response.headers["x-model-version"] for response in responses] == ["1.0", "2.0"]
    assert not any("x-archive-digest" in response.headers for response in responses)


def test_json_reaches_the_handler_parsed(server: Server) -> None:
    document = {"text": "grüß dich", "numbers": [1, 2.5, None, True]}
    response = server.inference.post("/predictions/echo", json=document)
    assert inputs(response) == {"body": ["dict", document]}


def test_json_that_does_not_parse_reaches_the_handler_as_bytes(server: Server) -> None:
    response = server.inference.post(
        "/predictions/echo", content=b'{"open": ', headers={"content-type": "application/json"}
    )
    assert inputs(response) == {"body": ["bytearray", '{"open": ']}


def test_text_reaches_the_handler_as_text(server: Server) -> None:
    response = server.inference.post(
        "/predictions/echo",
        content="grüß dich".encode(),
        headers={"content-type": "text/plain; charset=utf-8"},
    )
    assert inputs(response) == {"body": ["str", "grüß dich"]}


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "image/png"])
def test_other_content_reaches_the_handler_as_bytes(
    server: Server, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    body = bytes(range(256))
    response = server.inference.post("/predictions/echo", content=body, headers=headers)
    assert inputs(response) == {"body": ["bytearray", body.decode("latin-1")]}


def test_each_part_of_a_multipart_form_is_an_input_of_its_own_type(server: Server) -> None:
    response = server.inference.post(
        "/predictions/echo",
        files={
            "data": ("image.png", b"\x89PNG\r\n--", "image/png"),
            "meta": ("meta.json", b'{"top": 3}', "application/json"),
            "note": ("note.txt", b"hello", "text/plain"),
        },
        data={"plain": "field"},
    )
    assert inputs(response) == {
        "data": ["bytearray", "\x89PNG\r\n--"],
        "meta": ["dict", {"top": 3}],
        "note": ["str", "hello"],
        "plain": ["bytearray", "field"],
    }


def test_each_field_of_an_urlencoded_form_is_an_input(server: Server) -> None:
    response = server.inference.post(
        "/predictions/echo",
        content=b"data=1+2%2B3&empty=&data=last",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert inputs(response) == {"data": ["bytearray", "last"], "empty": ["bytearray", ""]}


def test_the_query_is_not_given_to_the_handler(server: Server) -> None:
    response = server.inference.post("/predictions/echo?top=3", json={})
    assert inputs(response) == {"body": ["dict", {}]}


def test_client_headers_reach_the_handler_with_those_the_server_adds(server: Server) -> None:
    response = server.inference.post("/predictions/echo", json={}, headers={"x-tenant": "blue"})
    assert response.json()["tenant"] == "blue"  # asked for as X-Tenant
    headers = response.json()["headers"]
    assert {key: headers[key] for key in ("x-tenant", "url_path", "explain", "body")} == {
        "x-tenant": "blue",
        "url_path": "",
        "explain": "False",
        "body": {"content-type": "application/json"},
    }


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_other_methods_predict_too(server: Server, method: str) -> None:
    response = server.inference.request(method, "/predictions/echo", json={"a": 1})
    assert inputs(response) == {"body": ["dict", {"a": 1}]}


def test_every_response_carries_the_common_headers(server: Server) -> None:
    for response in (
        server.predict("echo", json={}),
        server.predict("nobody", json={}),
        server.management.get("/models"),
        server.metrics.get("/metrics"),
    ):
        assert response.headers["pragma"] == "no-cache"
        assert response.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
        assert response.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
        assert UUID(response.headers["x-request-id"]).version == 4


def test_a_request_has_one_id_in_the_answer_the_handler_and_the_log(server: Server) -> None:
    response = server.inference.post(
        "/predictions/echo", json={}, headers={"x-request-id": "chosen-by-the-client"}
    )
    request_id = response.headers["x-request-id"]
    record = server.wait_record(lambda record: record.get("request_id") == request_id)
    assert request_id != "chosen-by-the-client"
    assert response.json()["request_id"] == request_id
    assert (record["message"], record["status"]) == ("POST /predictions/echo 200", 200)


def test_requests_that_wait_for_a_busy_worker_share_its_next_batch(
    server: Server, gate: Path
) -> None:
    first = server.predict_soon("held", json={"name": "first", "gate": str(gate)})
    wait_until(gate.with_name("first.started").exists, what="the worker is busy")
    others = [server.predict_soon("held", json={}) for _ in range(4)]
    wait_until(
        lambda: server.describe("held")["jobQueueStatus"]["pendingRequests"] == 4,
        what="the others wait",
    )
    gate.touch()
    assert first.result().json()["batch_size"] == 1
    assert [other.result().json()["batch_size"] for other in others] == [4, 4, 4, 4]


def test_a_full_queue_refuses_more_and_says_when_to_try_again(server: Server, gate: Path) -> None:
    held = [server.predict_soon("held", json={"name": "first", "gate": str(gate)})]
    wait_until(gate.with_name("first.started").exists, what="the worker is busy")
    held += [server.predict_soon("held", json={}) for _ in range(8)]
    wait_until(
        lambda: server.describe("held")["jobQueueStatus"]["remainingCapacity"] == 0,
        what="the queue is full",
    )
    refused = server.predict("held", json={})
    gate.touch()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["type"] == "ServiceUnavailableException"
    assert [response.result().status_code for response in held] == [200] * 9


def test_a_handler_chooses_status_and_headers(server: Server) -> None:
    teapot = server.predict("careless", json={"return": "a status", "code": 418})
    tagged = server.predict(
        "careless",
        json={"return": "headers", "headers": {"Content-Type": "text/csv", "X-Model": "m"}},
    )
    assert (teapot.status_code, teapot.json()["code"]) == (418, 418)
    assert (tagged.status_code, tagged.headers["content-type"]) == (200, "text/csv")
    assert tagged.headers["x-model"] == "m"


def test_a_handler_cannot_break_the_framing_of_its_answer(server: Server) -> None:
    """Lengths, connection and request id are the server's; a line break in a header is refused."""
    fine = server.predict(
        "careless",
        json={
            "return": "headers",
            "headers": {"Content-Length": "0", "Connection": "close", "X-Request-Id": "mine"},
        },
    )
    split = server.predict(
        "careless", json={"return": "headers", "headers": {"x-a": "1\r\nset-cookie: b"}}
    )
    assert fine.json()["return"] == "headers"
    assert fine.headers["x-request-id"] != "mine"
    assert split.status_code == 503
    assert "set-cookie" not in split.headers
    assert split.json()["message"] == "the handler set a header that HTTP cannot carry: 'x-a'"


def test_python_types_decide_how_an_answer_is_sent(server: Server) -> None:
    text = server.predict("careless", json={"return": "text", "text": "grüß dich"})
    raw = server.predict("careless", json={"return": "bytes"})
    tensor = server.predict("careless", json={"return": "tensor"})
    document = server.predict("echo", json={})
    assert (text.content, "content-type" in text.headers) == ("grüß dich".encode(), False)
    assert (raw.content, "content-type" in raw.headers) == (b"\x00\xff", False)
    assert torch.load(io.BytesIO(tensor.content), weights_only=True).tolist() == [0, 1, 2]
    assert document.headers["content-type"] == "application/json"


FORMS: dict[str, tuple[str | None, str | None]] = {  # url_path and explain, as TorchServe has them
    "/predictions/echo/2.0/some/where": ("some/where", "False"),
    "/predictions/echo/": ("", "False"),
    "/explanations/echo": ("", "True"),
    "/explanations/echo/1.0": ("", "True"),
    "/v1/models/echo:predict": (None, "False"),
    "/v1/models/echo:explain": (None, "True"),
    "/v2/models/echo/infer": (None, "False"),
    "/v2/models/echo/versions/2.0/infer": (None, "False"),
    "/v2/models/echo/explain": (None, "True"),
    "/invocations?model_name=echo": (None, None),
    "/models/echo/invoke": (None, None),
    "/echo/predict": (None, None),
    "/echo/1.0/predict": (None, None),
}


@pytest.mark.parametrize("path", FORMS)
def test_every_form_of_the_path_reaches_the_model(server: Server, path: str) -> None:
    response = server.inference.post(path, json={"a": 1})
    assert response.status_code == 200, response.text
    told = response.json()
    assert (told["headers"].get("url_path"), told["headers"].get("explain")) == FORMS[path]
    assert response.headers["x-model-version"] == ("2.0" if "2.0" in path else "1.0")


def test_the_oldest_forms_take_the_query_as_input(server: Server) -> None:
    told = server.inference.post("/echo/predict?size=3", json={"a": 1}).json()
    assert set(told["inputs"]) == {"size", "body"}
    named = server.inference.post("/invocations", data={"model_name": "echo", "x": "1"}).json()
    assert set(named["inputs"]) == {"model_name", "x"}
    unnamed = server.inference.post("/invocations", json={})
    assert unnamed.status_code == 400
    assert unnamed.json()["message"] == "Parameter model_name is required."


def test_the_root_describes_the_api(server: Server) -> None:
    for client in (server.inference, server.management, server.metrics):
        document = client.options("/").json()
        assert document["openapi"].startswith("3.")
    assert "/predictions/{model_name}" in server.inference.options("/").json()["paths"]
    assert "/models" in server.management.options("/").json()["paths"]
    assert server.inference.get("/api-description").json() == server.inference.options("/").json()


def test_a_model_describes_its_own_route(server: Server) -> None:
    document = server.inference.options("/predictions/echo").json()
    exact = server.inference.options("/predictions/echo/2.0")
    unknown = server.inference.options("/predictions/echo/3.0")
    assert document["info"]["title"] == "RESTful API for: echo"
    assert list(document["paths"]) == [
        "/prediction/echo",
        "/v1/models/echo:predict",
        "/v2/models/echo/infer",
    ]
    assert (exact.status_code, unknown.status_code) == (200, 404)


def test_the_health_routes_answer_on_every_listener(server: Server) -> None:
    for client in (server.inference, server.management, server.metrics):
        answers = [client.get(path).json() for path in ("/ping", "/livez", "/readyz")]
        assert answers == [{"status": "Healthy"}, {"status": "Alive"}, {"status": "Ready"}]


def test_the_builtin_handlers_answer(server: Server) -> None:
    numbers = server.inference.post("/predictions/summing", json=[1, 2, 3.5])
    raw = server.inference.post(
        "/predictions/summing",
        content=b"\0\0\x80\x3f" * 3,
        headers={"content-type": "application/octet-stream"},
    )
    assert (numbers.json(), raw.json()) == (6.5, 3.0)
