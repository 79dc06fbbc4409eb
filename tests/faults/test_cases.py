"""Every case on a running server in its short form, and with something broken that it must find.

Figures that depend on the machine's speed are judged by `make faults`, not here.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.faults.case import Case, Scene, run
from tests.faults.cases import CASES, named
from tests.faults.models import faulty
from tests.faults.stories_versions import replace_with_a_gap
from tests.integration.server import Server

ON_A_SERVER = [case for case in CASES if case.short is not None and not case.is_own]


@pytest.mark.parametrize("case", ON_A_SERVER, ids=lambda case: case.name)
def test_no_request_is_lost_and_all_is_as_before(server: Server, store: Path, case: Case) -> None:
    verdict = run(case, case.short or {}, server=server, store=store, seed=1)
    assert verdict.is_kept, verdict


def log_without_one(server: Server) -> list[str]:
    """The server's log, as if the last request had left no trace."""
    lines = server.stderr.so_far()
    *_, last = (place for place, line in enumerate(lines) if "?nonce=" in line)
    return lines[:last]


BREAKAGES: list[tuple[str, dict[str, Any]]] = [
    ("C1 baseline", {"mixes_up": True}),
    ("C2 retry off", {"kills": 3, "promised_retry": True}),
    ("C4 raise", {"poisons": 8, "retry": False}),
    ("C4 segfault", {"poisons": 4, "retry": False}),
    ("C6 swaps", {"replace": replace_with_a_gap}),
    ("C7 bad versions", {"is_good": True}),
    ("C7 bad signatures", {"are_checked": False, "per_version": 4}),
    ("C8 scaling", {"fewest": 0}),
    ("C9 overload", {"queue_size": 1000}),
    ("C10 slow clients", {"num_sockets": 8, "closed_within_s": 0.5}),
    ("C10 disconnects", {"times": 5}),
    ("C13 cut off", {"is_admitted": False}),
    ("C13 cut off", {"log": log_without_one}),
    ("C14 SIGSTOP", {"response_timeout_s": 60, "patience_s": 2.0}),
    ("C14 files of the front", {"num_good": 0}),
    ("C20 soak", {"retry": False, "kinds": ("kill",), "work_ms": 300}),
    ("C21 flood", {"on_itself": True}),
    ("C21 crash loop", {"most_crashes": 1, "patience_s": 1.0}),
]


@pytest.mark.parametrize(("name", "broken"), BREAKAGES)
def test_a_case_finds_what_is_broken(
    server: Server, store: Path, name: str, broken: dict[str, Any]
) -> None:
    case = named(name)
    verdict = run(case, {**(case.short or {}), **broken}, server=server, store=store, seed=1)
    assert not verdict.is_kept, verdict


def test_versions_that_nobody_vouches_for_are_refused(tmp_path: Path) -> None:
    case = named("C7 bad signatures")
    verdict = run(case, case.short or {}, server=None, store=tmp_path, seed=1)
    assert verdict.is_kept, verdict


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong at the end of a case is not waited for for long."""
    monkeypatch.setattr("tests.faults.case._REST_S", 0.5)


def an_answer_is_dropped(scene: Scene) -> None:
    scene.serve()
    with scene.load(20):
        pass
    scene.ledger.rows.pop()


def connections_are_left_open(scene: Scene, *, kept: list[socket.socket]) -> None:
    scene.serve()
    url = scene.server.inference.base_url
    kept += [socket.create_connection((url.host, url.port or 0)) for _ in range(5)]


def requests_are_left_waiting(scene: Scene, *, beside: list[socket.socket]) -> None:
    """For another model than the one that is asked again in the end."""
    scene.serve()
    archive = faulty(scene.store, f"{scene.model}-slow")
    assert scene.server.register(archive, batch_size=1).status_code == 200
    url = scene.server.inference.base_url
    body = b'{"x": 1, "nonce": 1, "work_ms": 1000}'
    for _ in range(3):
        beside.append(socket.create_connection((url.host, url.port or 0)))
        beside[-1].sendall(
            b"POST /predictions/%b-slow HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (scene.model.encode(), len(body), body)
        )


@pytest.mark.usefixtures("impatient")
def test_requests_that_are_left_waiting_are_found(server: Server, store: Path) -> None:
    case = Case(name="waiting", story=requests_are_left_waiting, whole={}, short={})
    beside: list[socket.socket] = []
    try:
        broken = run(case, {"beside": beside}, server=server, store=store, seed=1).broken
    finally:
        for connection in beside:
            connection.close()
    assert "requests still wait at the end" in broken
    for document in server.management.get("/models").json()["models"]:
        server.management.delete(f"/models/{document['modelName']}")


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_only_the_server_knows_of_is_found(server: Server, store: Path) -> None:
    case = Case(name="dropped", story=an_answer_is_dropped, whole={}, short={})
    (what,) = run(case, {}, server=server, store=store, seed=1).broken
    assert what.startswith("counted ")


@pytest.mark.usefixtures("impatient")
def test_files_that_the_front_keeps_are_found(server: Server, store: Path) -> None:
    case = Case(name="kept", story=connections_are_left_open, whole={}, short={})
    kept: list[socket.socket] = []
    try:
        (what,) = run(case, {"kept": kept}, server=server, store=store, seed=1).broken
    finally:
        for connection in kept:
            connection.close()
    assert what.startswith("the front has more than ")
