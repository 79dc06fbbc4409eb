from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Generator, Iterator
from functools import partial

import httpx
import pytest
from PIL import Image

from tests.integration.conftest import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from tests.integration.server import JSON, Server


@pytest.fixture(autouse=True)
def still_alive(server: Server) -> Generator[None]:
    """Whatever a test sent, the same workers answer afterwards."""
    models = ("echo", "careless", "summing", "brightness")
    pids = [server.pids(model) for model in models]
    yield
    assert server.predict("echo", json={}).status_code == 200
    assert server.predict("summing", json=[1, 2, 3]).json() == 6
    assert [server.pids(model) for model in models] == pids


def error(response: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message; the body must be the documented error and nothing else."""
    document: JSON = response.json()
    assert list(document) == ["code", "type", "message"]
    assert document["code"] == response.status_code
    assert response.headers["content-type"] == "application/json"
    assert response.text.endswith("}\n")
    return document["code"], document["type"], document["message"]


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "png")
    return file.getvalue()


def test_an_unknown_model_is_not_found(server: Server) -> None:
    response = server.predict("nobody", json={})
    assert response.text == (
        '{\n  "code": 404,\n  "type": "ModelNotFoundException",\n'
        '  "message": "Model not found: nobody"\n}\n'
    )
    assert response.status_code == 404


def test_an_unknown_version_is_not_found(server: Server) -> None:
    assert error(server.predict("echo", json={}, version="9.9")) == (
        404,
        "ModelVersionNotFoundException",
        "Model version: 9.9 does not exist for model: echo",
    )


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/predictions", "/predictions/", "/predictions//echo", "/models", "/../etc"],
)
def test_an_unknown_route_is_not_found(server: Server, path: str) -> None:
    assert error(server.inference.post(path, json={})) == (
        404,
        "ResourceNotFoundException",
        "Requested resource is not found, please refer to API document.",
    )


def test_a_wrong_method_is_not_allowed(server: Server) -> None:
    for response in (
        server.inference.get("/"),
        server.inference.post("/livez"),
        server.management.patch("/models"),
        server.management.post("/models/echo"),
        server.metrics.post("/metrics"),
    ):
        assert error(response) == (
            405,
            "MethodNotAllowedException",
            "Requested method is not allowed, please refer to API document.",
        )


def test_an_empty_body_is_refused_by_the_base_handler(server: Server) -> None:
    code, kind, message = error(server.inference.post("/predictions/summing"))
    assert (code, kind) == (400, "BadRequestException")
    assert message == "body is empty; send one sample"


def test_a_wrong_content_type_is_refused_by_the_base_handler(server: Server) -> None:
    response = server.inference.post(
        "/predictions/summing", content=b"1 2 3", headers={"content-type": "text/csv"}
    )
    code, kind, message = error(response)
    assert (code, kind) == (415, "UnsupportedMediaTypeException")
    assert "text/csv" in message


@pytest.mark.parametrize(
    ("sample", "hint"),
    [
        ([1, 2], "3"),
        ([[1, 2, 3]], "3"),
        ([1, 2, [3]], "ragged"),
        (["1", "2", "3"], "numbers"),
        ({"numbers": [1]}, "3"),
        ({"wrong": [1, 2, 3]}, "wrong"),
        ("1, 2, 3", "expected a nested list of numbers"),
        ([], "numbers"),
    ],
)
def test_numbers_of_another_shape_are_refused_by_the_base_handler(
    server: Server, sample: object, hint: str
) -> None:
    code, kind, message = error(server.predict("summing", json=sample))
    assert (code, kind) == (400, "BadRequestException")
    assert hint in message


@pytest.mark.parametrize("body", [b"{", b"[1, 2, NaN]", b"\xff\xfe", b"[" * 100_00])
def test_broken_json_is_refused_by_the_base_handler(server: Server, body: bytes) -> None:
    response = server.inference.post(
        "/predictions/summing", content=body, headers={"content-type": "application/json"}
    )
    code, kind, message = error(response)
    assert (code, kind) == (400, "BadRequestException")
    assert message.startswith("body is not JSON")


def test_a_body_of_the_largest_size_is_answered(server: Server) -> None:
    body = b"x" * MAX_REQUEST_BYTES
    response = server.inference.post("/predictions/echo", content=body)
    assert response.json()["inputs"]["body"] == ["bytearray", body.decode()]


def test_a_body_announced_as_too_large_is_refused_unread(server: Server) -> None:
    url = server.inference.base_url
    connection = http.client.HTTPConnection(url.host, url.port or 0, timeout=10)
    connection.putrequest("POST", "/predictions/echo")
    connection.putheader("content-length", str(MAX_REQUEST_BYTES + 1))
    connection.endheaders()  # and no body ever
    response = connection.getresponse()
    assert (response.status, response.headers["connection"]) == (413, "close")
    assert b"max_request_bytes 100000" in response.read()
    connection.close()


def test_a_body_that_grows_too_large_is_refused(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 10_000] * 11

    response = server.inference.post("/predictions/echo", content=chunks())
    code, kind, message = error(response)
    assert (code, kind) == (413, "RequestEntityTooLargeException")
    assert message.endswith("over max_request_bytes 100000; send less, or raise the limit")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="a"\r\n'),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\ncut',
        ),
        ("multipart/form-data; boundary=b", b"no boundary at all"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nnameless\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data", b"--b\r\n\r\n--b--\r\n"),
        ("application/x-www-form-urlencoded", b""),
        ("application/x-www-form-urlencoded", b"\xff\xfe=1"),
        ("application/x-www-form-urlencoded", b"&".join(b"f%d=" % i for i in range(1001))),
    ],
)
def test_a_broken_form_is_refused(server: Server, content_type: str, body: bytes) -> None:
    response = server.inference.post(
        "/predictions/echo", content=body, headers={"content-type": content_type}
    )
    code, kind, message = error(response)
    assert (code, kind) == (400, "BadRequestException")
    assert "form" in message or "multipart" in message


def test_an_undecodable_image_fails_alone_in_its_batch(server: Server) -> None:
    bodies = [png(0), b"not an image", png(255), png(0)[:40]] * 4
    answers = [
        server.in_thread(partial(server.inference.post, "/predictions/brightness", content=body))
        for body in bodies
    ]
    found = [answer.result() for answer in answers]
    assert [response.status_code for response in found] == [200, 400, 200, 400] * 4
    labels = [max(r.json(), key=r.json().get) for r in found if r.status_code == 200]
    assert labels == ["dark", "bright"] * 4
    assert {error(response)[1] for response in found[1::2]} == {"BadRequestException"}


def test_a_request_that_a_handler_calls_invalid_is_a_400_with_its_words(server: Server) -> None:
    response = server.predict("careless", json={"return": "invalid", "message": "too blurry"})
    assert error(response) == (400, "BadRequestException", "too blurry")


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("no list", (503, "Invalid model predict output")),
        ("too many", (503, "number of batch response mismatched")),
        ("an object", (503, "Unsupported model output data type.")),
        ("an exception", (503, "Prediction failed")),
        ("no memory", (507, "Out of resources")),
    ],
)
def test_a_handler_that_does_wrong_is_an_error_without_its_secrets(
    server: Server, returned: str, expected: tuple[int, str]
) -> None:
    response = server.predict("careless", json={"return": returned})
    code, kind, message = error(response)
    assert (code, message, kind) == (*expected, "InternalServerException")
    assert "secret" not in response.text


def test_an_answer_over_the_limit_is_an_error_of_that_request(server: Server) -> None:
    fits = server.predict("careless", json={"return": "a long text", "length": MAX_RESPONSE_BYTES})
    over = server.predict(
        "careless", json={"return": "a long text", "length": MAX_RESPONSE_BYTES + 1}
    )
    assert (fits.status_code, len(fits.content)) == (200, MAX_RESPONSE_BYTES)
    assert error(over)[0] == 503
    assert str(MAX_RESPONSE_BYTES) in error(over)[2]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /predictions/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3",
        b"POST /predictions/echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1",
        b"POST /predictions/echo HTTP/1.1\r\nhost: x\r\ncontent-length: nan",
        b"POST /predictions/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: nan\r\nbroken",
        b"POST /predictions/echo HTTP/9.9\r\nhost: x",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_closed(server: Server, head: bytes) -> None:
    url = server.inference.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connection:
        connection.sendall(head + b"\r\n\r\n{}")
        with connection.makefile("rb") as file:
            status_line, *_ = file.read().splitlines() or [b"closed"]
    assert status_line in {b"HTTP/1.1 400 Bad Request", b"closed"}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"batch_size": "0"}, "batch_size is 0; use 1 to 65536"),
        ({"batch_size": "-1"}, "batch_size is -1; use 1 to 65536"),
        ({"batch_size": "1000000000"}, "batch_size is 1000000000; use 1 to 65536"),
        ({"max_batch_delay": "-1"}, "max_batch_delay is -1; use 0 to 3600000"),
        ({"max_batch_delay": "1000000000"}, "max_batch_delay is 1000000000; use 0 to 3600000"),
        (
            {"initial_workers": "1000000000"},
            "initial_workers (min_worker) is 1000000000; use 0 to 1024",
        ),
        ({"response_timeout": "-2"}, "response_timeout is -2; use 0.001 to 86400"),
        ({"response_timeout": "1000000000"}, "response_timeout is 1000000000; use 0.001 to 86400"),
        ({"startup_timeout": "-2"}, "startup_timeout is -2; use 0 to 86400"),
        ({"runtime": "perl"}, "Invalid RuntimeType value: perl"),
        ({"url": ""}, "empty url"),
    ],
)
def test_a_bad_value_in_a_registration_is_refused(
    server: Server, query: dict[str, str], message: str
) -> None:
    parameters = {"url": "echo-1.0.mar", "model_name": "new", **query}
    response = server.management.post("/models", params=parameters)
    assert error(response)[2] == message
    assert response.status_code in {400, 404}
    assert server.management.get("/models/new").status_code == 404


def test_numbers_that_do_not_parse_fall_back_to_their_defaults(server: Server) -> None:
    """TorchServe's way, which its clients may rely on."""
    first = server.management.get("/models", params={"limit": "many", "next_page_token": "x"})
    assert first.json() == server.management.get("/models").json()


@pytest.mark.parametrize("body", [b"[]", b"{", b'"text"', b"\xff"])
def test_management_refuses_a_body_that_is_not_a_json_object(server: Server, body: bytes) -> None:
    response = server.management.post(
        "/models", content=body, headers={"content-type": "application/json"}
    )
    assert error(response)[:2] == (400, "BadRequestException")


def test_a_client_that_leaves_in_the_middle_of_its_body_is_noted_and_costs_nothing(
    server: Server,
) -> None:
    url = server.inference.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connection:
        connection.sendall(
            b"POST /predictions/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf"
        )
    record = server.wait_record(lambda record: record.get("status") == 499)
    assert record["message"] == "POST /predictions/echo 499"
