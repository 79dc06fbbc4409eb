from __future__ import annotations

import asyncio
from collections.abc import Iterable

import httpx
import pytest
from fastapi import APIRouter, Request

from flambeau.api.auth import (
    Guard,
    InferenceRoute,
    ManagementRoute,
    OpenRoute,
    RenewalRoute,
    require_roles,
)
from flambeau.app import create_app
from flambeau.audience import Audience
from flambeau.config import ServeConfig
from flambeau.errors import BadParameter, Forbidden, TokenRefused, Unauthorized
from flambeau.metrics import Metrics
from flambeau.tokens import KeyRing, Role

TEXT = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
ROUTE_CLASSES = {
    None: OpenRoute,
    Role.INFERENCE: InferenceRoute,
    Role.MANAGEMENT: ManagementRoute,
    Role.API: RenewalRoute,
}


def bearer(ring: KeyRing, role: Role) -> bytes:
    return f"Bearer {ring.newest(role).text}".encode()


@pytest.mark.parametrize("role", Role)
def test_a_guard_lets_the_right_key_pass_and_no_other(role: Role) -> None:
    ring = KeyRing(lifetime_s=60)
    guard = Guard(ring)
    guard.check([bearer(ring, role)], role)
    for other in set(Role) - {role}:
        with pytest.raises(Forbidden):
            guard.check([bearer(ring, other)], role)


@pytest.mark.parametrize(
    "value",
    [None, b"", b"Bearer", b"Bearer ", b"Bearer wrong", b"Basic KEY", b"KEY", b"Bearer KEY KEY"],
)
def test_a_guard_refuses_everything_else(value: bytes | None) -> None:
    ring = KeyRing(lifetime_s=60)
    key = ring.newest(Role.INFERENCE).text.encode()
    values = [] if value is None else [value.replace(b"KEY", key)]
    with pytest.raises(Unauthorized, match=TEXT):
        Guard(ring).check(values, Role.INFERENCE)


def test_the_scheme_may_be_in_any_case_and_the_blanks_of_any_number() -> None:
    ring = KeyRing(lifetime_s=60)
    key = ring.newest(Role.INFERENCE).text.encode()
    for value in (b"bearer " + key, b"BEARER   " + key + b" ", b" Bearer " + key):
        Guard(ring).check([value], Role.INFERENCE)


def test_two_headers_are_refused_even_when_both_are_right() -> None:
    ring = KeyRing(lifetime_s=60)
    value = bearer(ring, Role.INFERENCE)
    with pytest.raises(BadParameter, match="2 Authorization headers; send one"):
        Guard(ring).check([value, value], Role.INFERENCE)


def test_torchserves_status_does_not_tell_a_wrong_role_from_a_wrong_key() -> None:
    ring = KeyRing(lifetime_s=60)
    guard = Guard(ring, status_400=True)
    for value in (b"Bearer wrong", bearer(ring, Role.MANAGEMENT)):
        with pytest.raises(TokenRefused, match=TEXT):
            guard.check([value], Role.INFERENCE)


def test_without_keys_everybody_passes() -> None:
    Guard(None).check([], Role.MANAGEMENT)
    Guard(None).checker(Role.MANAGEMENT)(None)


def test_a_checker_takes_one_value_or_none() -> None:
    ring = KeyRing(lifetime_s=60)
    check = Guard(ring).checker(Role.INFERENCE)
    check(bearer(ring, Role.INFERENCE).decode())
    for wrong in (None, "", "Bearer wrong", "Bearer \u00e9"):
        with pytest.raises(Unauthorized):
            check(wrong)


def test_an_application_with_a_route_that_declares_no_role_is_not_made() -> None:
    router = APIRouter()
    router.add_api_route("/secret", lambda: None)
    with pytest.raises(TypeError, match="the route /secret declares no role"):
        create_app([Audience.INFERENCE], [router], config=ServeConfig(), metrics=Metrics())
    with pytest.raises(TypeError, match="declares no role"):
        require_roles([router])


def routers() -> list[APIRouter]:
    """For each role, a route that answers with the names of the headers it sees."""

    async def headers(request: Request) -> list[str]:
        return request.headers.keys()

    made: list[APIRouter] = []
    for role, route_class in ROUTE_CLASSES.items():
        router = APIRouter(route_class=route_class)
        router.add_api_route(f"/{role.value if role else 'open'}", headers, methods=["GET"])
        made.append(router)
    return made


def call(
    requests: Iterable[tuple[str, str, dict[str, str]]], *, guard: Guard
) -> list[httpx.Response]:
    """Send `(method, path, headers)` to one application with all kinds of routes."""
    app = create_app(
        [Audience.INFERENCE, Audience.MANAGEMENT],
        routers(),
        config=ServeConfig(access_log=False),
        metrics=Metrics(),
        guard=guard,
    )

    async def story() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            return [await client.request(m, path, headers=h) for m, path, h in requests]

    return asyncio.run(story())


def test_the_key_is_asked_for_before_the_method() -> None:
    ring = KeyRing(lifetime_s=60)
    right = {"authorization": bearer(ring, Role.INFERENCE).decode()}
    refused, wrong_method = call(
        [("DELETE", "/inference", {}), ("DELETE", "/inference", right)], guard=Guard(ring)
    )
    assert (refused.status_code, wrong_method.status_code) == (401, 405)


def test_the_endpoint_never_sees_the_key() -> None:
    ring = KeyRing(lifetime_s=60)
    right = {"Authorization": bearer(ring, Role.INFERENCE).decode(), "x-other": "stays"}
    (response,) = call([("GET", "/inference", right)], guard=Guard(ring))
    assert response.status_code == 200
    assert "x-other" in response.json()
    assert "authorization" not in response.json()


def test_without_keys_the_header_belongs_to_the_handler() -> None:
    (response,) = call([("GET", "/inference", {"authorization": "x"})], guard=Guard(None))
    assert "authorization" in response.json()


def test_a_refusal_names_the_scheme_and_has_torchserves_body() -> None:
    ring = KeyRing(lifetime_s=60)
    management = {"authorization": bearer(ring, Role.MANAGEMENT).decode()}
    for guard, codes in (
        (Guard(ring), (401, 403)),
        (Guard(ring, status_400=True), (400, 400)),
    ):
        missing, other = call(
            [("GET", "/inference", {}), ("GET", "/inference", management)], guard=guard
        )
        assert (missing.status_code, other.status_code) == codes
        for response in (missing, other):
            assert response.json() == {
                "code": response.status_code,
                "type": "InvalidKeyException",
                "message": TEXT,
            }
        scheme = "Bearer" if codes[0] == 401 else None
        assert missing.headers.get("www-authenticate") == scheme
        assert "www-authenticate" not in other.headers


def test_strangers_do_not_learn_which_paths_there_are() -> None:
    ring = KeyRing(lifetime_s=60)
    inference = {"authorization": bearer(ring, Role.INFERENCE).decode()}
    unknown = [("GET", "/nowhere", {}), ("GET", "/nowhere", inference)]
    stranger, known = call(unknown, guard=Guard(ring))
    assert (stranger.status_code, known.status_code) == (401, 404)
    assert stranger.json()["message"] == TEXT
    assert call(unknown, guard=Guard(ring, status_400=True))[0].status_code == 400
    assert call(unknown, guard=Guard(None))[0].status_code == 404


def test_renewal_speaks_of_authentication() -> None:
    (response,) = call([("GET", "/API", {})], guard=Guard(KeyRing(lifetime_s=60)))
    assert response.status_code == 401
    assert response.json()["message"].startswith("Token Authentication failed. ")


def test_open_routes_and_the_api_document_need_no_key() -> None:
    responses = call(
        [
            ("GET", "/open", {}),
            ("OPTIONS", "/", {}),
            ("GET", "/api-description", {}),
            ("POST", "/api-description", {}),
            ("GET", "/openapi.json", {}),
        ],
        guard=Guard(KeyRing(lifetime_s=60)),
    )
    assert [response.status_code for response in responses] == [200] * 5
