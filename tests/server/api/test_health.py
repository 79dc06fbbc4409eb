from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from flambeau.api.auth import Guard
from flambeau.api.health import health_router
from flambeau.app import create_app
from flambeau.audience import Audience
from flambeau.config import ServeConfig
from flambeau.devices import DeviceCycle
from flambeau.metrics import Metrics
from flambeau.model_version import Host, Package
from flambeau.registry import Registry
from flambeau.tokens import KeyRing, Role


async def discard(package: Package) -> None:
    del package


def ask(
    requests: Sequence[tuple[str, str, str]], *, started: bool, keys: KeyRing | None = None
) -> list[httpx.Response]:
    """Send `(method, path, token)` to a server without models."""
    metrics = Metrics()

    async def story() -> list[httpx.Response]:
        registry = Registry(
            host=Host(devices=DeviceCycle(0), environment={}, max_response_bytes=1),
            metrics=metrics,
            drain_timeout_s=1,
            discard=discard,
        )
        if started:
            registry.startup_done()
        app = create_app(
            [Audience.INFERENCE],
            [health_router(registry)],
            config=ServeConfig(access_log=False),
            metrics=metrics,
            guard=Guard(keys),
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://host"
        ) as client:
            return [
                await client.request(method, path, headers={"authorization": f"Bearer {token}"})
                for method, path, token in requests
            ]

    return asyncio.run(story())


def test_a_ping_is_answered_by_any_method_and_before_models_are_there() -> None:
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    for response in ask([(method, "/ping", "") for method in methods], started=False):
        assert response.status_code == 200
    (got,) = ask([("GET", "/ping", "")], started=False)
    assert got.json() == {"status": "Healthy"}


def test_a_server_that_still_starts_is_alive_but_not_ready() -> None:
    requests = [(method, path, "") for path in ("/livez", "/readyz") for method in ("GET", "HEAD")]
    alive, alive_head, ready, ready_head = ask(requests, started=False)
    assert (alive.status_code, alive_head.status_code) == (200, 200)
    assert (ready.status_code, ready_head.status_code) == (503, 503)
    assert ready.json() == {"status": "Not ready", "reasons": ["models are being unpacked"]}
    (ready,) = ask([("GET", "/readyz", "")], started=True)
    assert (ready.status_code, ready.json()) == (200, {"status": "Ready"})


def test_probes_need_no_token_but_reasons_do() -> None:
    keys = KeyRing(lifetime_s=60)
    tokens = ["", "wrong", *(keys.newest(role).text for role in Role)]
    requests = [("GET", path, "") for path in ("/ping", "/livez")]
    assert [r.status_code for r in ask(requests, started=False, keys=keys)] == [200, 200]
    answers = ask([("GET", "/readyz", token) for token in tokens], started=False, keys=keys)
    assert {answer.status_code for answer in answers} == {503}
    assert [len(answer.json()["reasons"]) for answer in answers] == [0, 0, 1, 1, 1]
