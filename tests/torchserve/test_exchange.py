from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.errors import ConfigError
from flambeau.torchserve.exchange import (
    Answer,
    Exchange,
    Request,
    read_exchanges,
    read_requests,
    write_exchanges,
)
from flambeau.torchserve.launch import Port


def make_request(**changes: object) -> Request:
    settings: dict[str, object] = {
        "name": "one",
        "port": Port.INFERENCE,
        "method": "POST",
        "target": "/predictions/m",
    }
    return Request(**(settings | changes))  # type: ignore[arg-type]  # values by name


def test_exchanges_come_back_as_they_were_written(tmp_path: Path) -> None:
    exchanges = [
        Exchange(
            request=make_request(
                headers=(("A", "b"),), body=b"\xff\x00", until=200, view="openapi"
            ),
            answer=Answer(status=200, reason="OK", headers=(("c", "d"),), body="ü".encode()),
        ),
        Exchange(
            request=make_request(name="two", body=b"", together="both"),
            answer=Answer(status=200, body=b"ab", chunks=(1, 1), cut_off=True),
        ),
    ]
    write_exchanges(tmp_path / "some.jsonl", exchanges)
    assert read_exchanges(tmp_path / "some.jsonl") == exchanges
    assert read_requests(tmp_path / "some.jsonl") == [each.request for each in exchanges]


def test_a_request_needs_little_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "by_hand.jsonl"
    path.write_text('{"name": "mine", "target": "/predictions/m", "body": "x"}\n')
    (request,) = read_requests(path)
    assert (request.method, request.port, request.body) == ("POST", Port.INFERENCE, b"x")


@pytest.mark.parametrize(
    "line", ["{", '{"target": "/"}', '{"name": "n", "target": "/", "port": 1}']
)
def test_a_line_that_is_no_request_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_text(line)
    with pytest.raises(ConfigError):
        read_requests(path)


def test_tags_are_filled_in_everywhere() -> None:
    request = make_request(
        target="/<<a>>", headers=(("Authorization", "Bearer <<b>>"),), body=b"\xff<<a>>"
    ).filled({"a": "1", "b": "2"})
    assert request.target == "/1"
    assert request.headers == (("Authorization", "Bearer 2"),)
    assert request.body == b"\xff1"


def test_a_tag_without_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match="<<absent>>"):
        make_request(target="/<<absent>>").filled({})
