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
from tests.faults.stories_versions import replace_with_a_gap
from tests.integration.server import Server

ON_A_SERVER = [case for case in CASES if case.short is not None and not case.is_own]


@pytest.mark.parametrize("case", ON_A_SERVER, ids=lambda case: case.name)
def test_no_request_is_lost_and_all_is_as_before(server: Server, store: Path, case: Case) -> None:
    verdict = run(case, case.short or {}, server=server, store=store, seed=1)
    assert verdict.is_kept, verdict


BREAKAGES: dict[str, dict[str, Any]] = {
    "C1 baseline": {"mixes_up": True},
    "C2 retry off": {"kills": 3, "promised_retry": True},
    "C4 raise": {"poisons": 8, "retry": False},
    "C4 segfault": {"poisons": 4, "retry": False},
    "C6 swaps": {"replace": replace_with_a_gap},
    "C7 bad versions": {"is_good": True},
    "C8 scaling": {"fewest": 0},
    "C10 disconnects": {"times": 5},
    "C9 overload": {"queue_size": 1000},
    "C13 cut off": {"is_admitted": False},
    "C14 SIGSTOP": {"response_timeout_s": 60, "patience_s": 2.0},
    "C20 soak": {"retry": False, "kinds": ("kill",), "work_ms": 50},
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_case_finds_what_is_broken(server: Server, store: Path, name: str) -> None:
    case = named(name)
    verdict = run(
        case, {**(case.short or {}), **BREAKAGES[name]}, server=server, store=store, seed=1
    )
    assert not verdict.is_kept, verdict


def an_answer_is_dropped(scene: Scene) -> None:
    scene.serve()
    with scene.load(20):
        pass
    scene.ledger.rows.pop()


def connections_are_left_open(scene: Scene, *, kept: list[socket.socket]) -> None:
    scene.serve()
    url = scene.server.inference.base_url
    kept += [socket.create_connection((url.host, url.port or 0)) for _ in range(5)]


def test_an_answer_that_only_the_server_knows_of_is_found(server: Server, store: Path) -> None:
    case = Case(name="dropped", story=an_answer_is_dropped, whole={}, short={})
    (what,) = run(case, {}, server=server, store=store, seed=1).broken
    assert what.startswith("counted ")


def test_files_that_the_front_keeps_are_found(server: Server, store: Path) -> None:
    case = Case(name="kept", story=connections_are_left_open, whole={}, short={})
    kept: list[socket.socket] = []
    try:
        (what,) = run(case, {"kept": kept}, server=server, store=store, seed=1).broken
    finally:
        for connection in kept:
            connection.close()
    assert what.startswith("the front has more than ")
