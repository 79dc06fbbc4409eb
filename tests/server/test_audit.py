from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flambeau import audit
from flambeau.audit import audit_file
from flambeau.errors import ConfigError


def note(call: str = "POST /models", certificate: str = "", **arguments: object) -> None:
    audit.note(
        call,
        200,
        who="management key 1f0c9a2b",
        client=("127.0.0.1", 5000),
        request_id="an-id",
        listener="management",
        arguments=arguments,
        certificate=certificate,
    )


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_tells_who_did_what_from_where_and_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with audit_file(path):
        note(url="digits.mar", initial_workers=2)
    (record,) = records_of(path)
    assert record["call"] == "POST /models"
    assert record["status"] == 200
    assert record["who"] == "management key 1f0c9a2b"
    assert (record["client"], record["client_port"]) == ("127.0.0.1", 5000)
    assert (record["request_id"], record["listener"]) == ("an-id", "management")
    assert record["arguments"] == {"url": "digits.mar", "initial_workers": "2"}


def test_a_certificate_is_on_record_where_one_was_shown(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with audit_file(path):
        note()
        note(certificate="CN=ann")
    first, second = records_of(path)
    assert "certificate" not in first
    assert second["certificate"] == "CN=ann"


def test_the_query_of_an_address_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with audit_file(path):
        note(url="https://bucket.example/m.mar?X-Amz-Signature=secret")
    (record,) = records_of(path)
    assert record["arguments"] == {"url": "https://bucket.example/m.mar"}


def test_no_text_makes_two_records_of_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with audit_file(path):
        note('x\n{"call": "forged"}', url="a\r\nb\u2028c" + "d" * 10_000)
    (record,) = records_of(path)
    assert record["call"] == 'x\n{"call": "forged"}'
    assert len(record["arguments"]["url"]) == 512


def test_only_the_owner_reads_the_file_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        with audit_file(path):
            note()
    assert len(records_of(path)) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with audit_file(path):
        note("first")
        path.rename(tmp_path / "yesterday.jsonl")
        note("second")
    assert [record["call"] for record in records_of(path)] == ["second"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit_log .* cannot be written"), audit_file(tmp_path):
        pass
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"audit_log .*link cannot be written"), audit_file(link):
        pass


def test_records_are_kept_whatever_else_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with audit_file(path):
            note()
    finally:
        root.setLevel(level)
    assert len(records_of(path)) == 1
