from __future__ import annotations

import json
import uuid

import pytest

from tests.integration.server import JSON, Server


def say(server: Server, text: str, *, stream: str = "stdout", times: int = 1) -> None:
    order = {"text": text, "stream": stream, "times": times}
    assert server.predict("talkative", json=order).text == "said"


def records_with(server: Server, text: str) -> list[JSON]:
    return [record for record in server.records() if text in record["message"]]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_worker_prints_is_a_record_that_says_who(server: Server, stream: str) -> None:
    mark = uuid.uuid4().hex
    say(server, f"loading grüße {mark}\n", stream=stream)
    record = server.wait_record(lambda record: mark in record["message"])
    (worker,) = server.describe("talkative")["workers"]
    assert record["message"] == f"loading grüße {mark}"
    assert {key: record[key] for key in ("level", "model", "version", "worker", "stream")} == {
        "level": "INFO",
        "model": "talkative",
        "version": "1.0",
        "worker": worker["id"],
        "stream": stream,
    }


def test_a_handler_cannot_forge_a_record(server: Server) -> None:
    mark = uuid.uuid4().hex
    forged = json.dumps({"level": "ERROR", "logger": "flambeau.registry", "message": mark})
    say(server, f"{forged}\r\n\x1b[2K\x0b\u2028{forged}\n{mark} last\n")
    server.wait_record(lambda record: record["message"] == f"{mark} last")
    records = records_with(server, mark)
    assert [record["message"] for record in records] == [
        forged,
        f"\x1b[2K\x0b\u2028{forged}",
        f"{mark} last",
    ]
    assert {(record["level"], record["logger"]) for record in records} == {
        ("INFO", "flambeau.worker")
    }
    (line,) = [line for line in server.stderr.so_far() if "u2028" in line]
    assert line.isascii()
    assert line.isprintable()


def test_a_client_cannot_forge_a_record(server: Server) -> None:
    mark = uuid.uuid4().hex
    response = server.inference.post(f"/predictions/{mark}%0A%7B%22level%22%3A%22ERROR%22%7D")
    assert response.status_code == 400
    record = server.wait_record(lambda record: mark in record["message"])
    assert record["message"] == (f"POST /predictions/{mark}%0A%7B%22level%22%3A%22ERROR%22%7D 400")
    assert len(records_with(server, mark)) == 1


def test_text_without_an_end_is_logged_in_pieces(server: Server) -> None:
    mark = uuid.uuid4().hex
    say(server, mark * 1000 + "\n")  # 32,000 bytes
    say(server, f"after {mark}\n")
    server.wait_record(lambda record: record["message"] == f"after {mark}")
    pieces = [record["message"] for record in records_with(server, mark)][:-1]
    assert "".join(pieces) == mark * 1000
    assert max(map(len, pieces)) <= 8192


def test_a_flood_of_output_is_logged_whole_while_others_answer(server: Server) -> None:
    mark = uuid.uuid4().hex
    flood = server.predict_soon("talkative", json={"text": f"{mark} flood\n", "times": 5000})
    assert server.predict("echo", json={}).status_code == 200
    assert flood.result().text == "said"
    say(server, f"{mark} end\n")
    server.wait_record(lambda record: record["message"] == f"{mark} end")
    assert len(records_with(server, f"{mark} flood")) == 5000


def test_an_exception_of_a_handler_is_in_the_log_with_its_traceback(server: Server) -> None:
    num_before = len(records_with(server, "ValueError: a secret of the model"))
    response = server.predict("careless", json={"return": "an exception"})
    request_id = response.headers["x-request-id"]
    record = server.wait_record(
        lambda record: record.get("request_id") == request_id and record["level"] == "WARNING"
    )
    assert record["message"] == "HandlerFailed: Prediction failed"
    server.wait_record(lambda record: "ValueError: a secret of the model" in record["message"])
    assert len(records_with(server, "ValueError: a secret of the model")) == num_before + 1


def test_probes_are_not_logged(server: Server) -> None:
    server.inference.get("/ping")
    server.metrics.get("/metrics")
    request_id = server.inference.get("/nowhere").headers["x-request-id"]
    server.wait_record(lambda record: record.get("request_id") == request_id)
    assert not records_with(server, "GET /ping") + records_with(server, "GET /metrics")
