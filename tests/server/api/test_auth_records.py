"""What is written down of calls that change something or are refused, and how keys are renewed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request

from flambeau.api.auth import (
    Guard,
    ManagementRoute,
    note_arguments,
    note_outcome,
    token_router,
)
from flambeau.app import create_app
from flambeau.audience import Audience
from flambeau.audit import audit_file
from flambeau.config import ServeConfig
from flambeau.errors import ModelNotFound, Unauthorized
from flambeau.key_file import KeyFile, Tokens
from flambeau.metrics import Metrics
from flambeau.tokens import KeyRing, Role, Verdict


def make_tokens(directory: Path) -> Tokens:
    return Tokens(KeyRing(lifetime_s=60), KeyFile(directory / "keys.json"))


def header(keys: KeyRing, role: Role) -> dict[str, str]:
    return {"authorization": f"Bearer {keys.newest(role).text}"}


def managing(tokens: Tokens) -> list[APIRouter]:
    """Routes that read, change, fail and break, and the one that renews."""
    router = APIRouter(route_class=ManagementRoute)

    async def answer(request: Request) -> str:
        if "told" in request.query_params:
            note_arguments(request, {"url": "m.mar"})
            note_outcome(request, "FAILED")
        return "done"

    async def echo(request: Request) -> str:
        return (await request.body()).decode()

    async def fail() -> None:
        raise ModelNotFound("Model not found: m")

    async def break_down() -> None:
        raise RuntimeError("a bug")

    router.add_api_route("/models", answer, methods=["GET", "HEAD", "POST"])
    router.add_api_route("/echo", echo, methods=["POST"])
    router.add_api_route("/missing", fail, methods=["DELETE"])
    router.add_api_route("/broken", break_down, methods=["PUT"])
    return [router, token_router(tokens)]


def call(
    method: str,
    path: str,
    headers: Mapping[str, str],
    *,
    directory: Path,
    tokens: Tokens,
    guard: Guard | None = None,
    body: bytes = b"",
) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """The answer to one request, and the records of it."""
    app = create_app(
        [Audience.MANAGEMENT],
        managing(tokens),
        config=ServeConfig(access_log=False),
        metrics=Metrics(),
        guard=guard or Guard(tokens.keys),
    )

    async def story() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.0.0.9", 7))
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            return await client.request(method, path, headers=headers, content=body)

    path_of_records = directory / "audit.jsonl"
    with audit_file(path_of_records):
        response = asyncio.run(story())
    return response, [json.loads(line) for line in path_of_records.read_text().splitlines()]


def test_a_call_that_changes_something_is_recorded(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path)
    response, records = call(
        *("POST", "/models?url=m.mar", header(tokens.keys, Role.MANAGEMENT)),
        directory=tmp_path,
        tokens=tokens,
    )
    (record,) = records
    assert (record["call"], record["status"]) == ("POST /models", 200)
    assert record["who"] == f"management key {tokens.keys.newest(Role.MANAGEMENT).name}"
    assert (record["client"], record["client_port"]) == ("10.0.0.9", 7)
    assert record["listener"] == "management"
    assert record["arguments"] == {"url": "m.mar"}
    assert record["request_id"] == response.headers["x-request-id"]
    assert "outcome" not in record


def test_a_route_may_tell_what_it_was_given_and_how_it_ended(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path)
    _, (record,) = call(
        *("POST", "/models?told=1", header(tokens.keys, Role.MANAGEMENT)),
        directory=tmp_path,
        tokens=tokens,
    )
    assert (record["arguments"], record["outcome"]) == ({"url": "m.mar"}, "FAILED")


def test_a_body_gets_past_the_guard_and_the_record(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path)
    headers = header(tokens.keys, Role.MANAGEMENT)
    response, _ = call(
        "POST", "/echo", headers, directory=tmp_path, tokens=tokens, body=b"all of it"
    )
    assert response.json() == "all of it"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_call_that_only_reads_is_recorded_when_it_is_refused(tmp_path: Path, method: str) -> None:
    tokens = make_tokens(tmp_path)
    for headers, status, who in (
        (header(tokens.keys, Role.MANAGEMENT), 200, None),
        ({}, 401, "no valid key"),
        (header(tokens.keys, Role.INFERENCE), 403, "inference key"),
    ):
        (tmp_path / "audit.jsonl").unlink(missing_ok=True)
        response, records = call(method, "/models", headers, directory=tmp_path, tokens=tokens)
        assert response.status_code == status
        assert [each["status"] for each in records] == ([] if who is None else [status])
        assert all(each["who"].startswith(str(who)) for each in records)


@pytest.mark.parametrize(("method", "path", "status"), [("DELETE", "/missing", 404)])
def test_a_call_that_fails_is_recorded_with_its_status(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    tokens = make_tokens(tmp_path)
    headers = header(tokens.keys, Role.MANAGEMENT)
    response, (record,) = call(method, path, headers, directory=tmp_path, tokens=tokens)
    assert response.status_code == record["status"] == status


def test_a_call_that_meets_a_bug_is_recorded_too(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path)
    headers = header(tokens.keys, Role.MANAGEMENT)
    response, (record,) = call("PUT", "/broken", headers, directory=tmp_path, tokens=tokens)
    assert response.status_code == record["status"] == 500


def test_where_no_keys_are_asked_for_anybody_did_it(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path)
    response, (record,) = call(
        *("POST", "/models", {"authorization": "Bearer x"}),
        directory=tmp_path,
        tokens=tokens,
        guard=Guard(None),
    )
    assert (response.status_code, record["who"]) == (200, "anybody")


@pytest.mark.parametrize("role", [Role.MANAGEMENT, Role.INFERENCE])
def test_a_renewal_puts_a_new_key_into_the_file_and_is_recorded(tmp_path: Path, role: Role) -> None:
    tokens = make_tokens(tmp_path)
    headers, old = header(tokens.keys, Role.API), tokens.keys.newest(role).text
    response, (record,) = call(
        "GET", f"/token?type={role.value}", headers, directory=tmp_path, tokens=tokens
    )
    assert (response.status_code, response.content) == (200, b"")
    assert tokens.keys.check(old.encode(), role) is Verdict.UNKNOWN
    document = json.loads((tmp_path / "keys.json").read_text())
    assert document[role.value]["key"] == tokens.keys.newest(role).text != old
    assert (record["call"], record["arguments"]) == ("GET /token", {"type": role.value})


@pytest.mark.parametrize("query", ["", "?type=", "?type=API", "?type=INFERENCE", "?kind=inference"])
def test_only_two_kinds_of_keys_are_renewed(tmp_path: Path, query: str) -> None:
    tokens = make_tokens(tmp_path)
    before = tokens.keys.document()
    headers = header(tokens.keys, Role.API)
    response, _ = call("GET", f"/token{query}", headers, directory=tmp_path, tokens=tokens)
    assert response.status_code == 400
    assert "use management or inference" in response.json()["message"]
    assert tokens.keys.document() == before


def test_a_question_for_the_methods_of_the_renewal_is_no_renewal(tmp_path: Path) -> None:
    tokens = make_tokens(tmp_path)
    headers = header(tokens.keys, Role.API)
    response, records = call("HEAD", "/token", headers, directory=tmp_path, tokens=tokens)
    assert (response.status_code, records) == (405, [])


def test_a_guard_tells_whose_key_was_missed() -> None:
    refused: list[Role] = []
    guard = Guard(KeyRing(lifetime_s=60), on_refused=refused.append)
    for role in Role:
        with pytest.raises(Exception, match="Token"):
            guard.check([], role)
    assert refused == list(Role)


def test_a_guard_lets_through_what_is_not_the_key() -> None:
    keys = KeyRing(lifetime_s=60)
    key = (b"authorization", header(keys, Role.INFERENCE)["authorization"].encode())
    others = [(b"x-a", b"1"), (b"x-a", b"2")]
    assert Guard(keys).admit([others[0], key, others[1]], Role.INFERENCE) == others
    assert Guard(None).admit([*others, key], Role.INFERENCE) == [*others, key]
    assert (Guard(keys).is_on, Guard(None).is_on) == (True, False)


def test_any_valid_key_makes_a_caller_known() -> None:
    keys = KeyRing(lifetime_s=60)

    def scope(value: str) -> dict[str, Any]:
        return {"headers": [(b"host", b"h"), (b"authorization", value.encode())]}

    for role in Role:
        known = scope(header(keys, role)["authorization"])
        assert Guard(keys).trusts(known)
        assert Guard(keys).stranger(known) is None
    assert not Guard(keys).trusts(scope("Bearer x"))
    assert type(Guard(keys).stranger(scope("Bearer x"))) is Unauthorized
    assert Guard(None).trusts({"headers": []})


def test_two_keys_are_nobodys() -> None:
    keys = KeyRing(lifetime_s=60)
    value = header(keys, Role.API)["authorization"].encode()
    assert Guard(keys).who([value]) == f"API key {keys.newest(Role.API).name}"
    assert Guard(keys).who([value, value]) == "no valid key"
