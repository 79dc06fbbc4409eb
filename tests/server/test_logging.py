from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest

from flambeau.logging import JsonFormatter


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> logging.Logger:
    logger = logging.getLogger("flambeau.tests")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    return logger


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_object_with_its_extra_fields(
    log: logging.Logger, stream: io.StringIO
) -> None:
    log.info("answered %d", 3, extra={"request_id": "abc"})
    (record,) = records(stream)
    assert record["message"] == "answered 3"
    assert record["level"] == "INFO"
    assert record["request_id"] == "abc"


@pytest.mark.parametrize("text", ['x\n{"level": "ERROR"}', "x\r\ny", "\x1b[2J", "a\u2028b", '"}'])
def test_no_text_can_forge_a_record(log: logging.Logger, stream: io.StringIO, text: str) -> None:
    log.info(text, extra={"path": text})
    (record,) = records(stream)
    assert record["message"] == text
    assert record["path"] == text
    assert stream.getvalue().isascii()


def test_a_long_field_is_cut(log: logging.Logger, stream: io.StringIO) -> None:
    log.info("x" * 100_000)
    assert len(stream.getvalue()) < 10_000


def test_a_traceback_stays_inside_its_record(log: logging.Logger, stream: io.StringIO) -> None:
    try:
        int("no\nsuch thing")
    except ValueError:
        log.warning("failed", exc_info=sys.exc_info())
    (record,) = records(stream)
    assert "ValueError: invalid literal" in record["traceback"]
