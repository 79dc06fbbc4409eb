"""The server's end under load; each case has a server of its own."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.case import run
from tests.faults.cases import named

ENDED = named("C5 a long request")
SIZES = {"meanwhile": "a long request", "num_requests": 60}


def test_what_was_accepted_is_answered_before_the_end(tmp_path: Path) -> None:
    verdict = run(ENDED, SIZES, server=None, store=tmp_path, seed=1)
    assert verdict.is_kept, verdict


@pytest.mark.parametrize("broken", [{"grace_s": 0.0}, {"number": signal.SIGKILL}])
def test_an_end_that_drops_what_was_accepted_is_found(
    tmp_path: Path, broken: dict[str, object]
) -> None:
    verdict = run(ENDED, {**SIZES, **broken}, server=None, store=tmp_path, seed=1)
    assert not verdict.is_kept, verdict


FRONT = named("C3 front killed")


def test_a_killed_front_costs_what_it_was_asked_and_no_more(tmp_path: Path) -> None:
    verdict = run(FRONT, FRONT.short or {}, server=None, store=tmp_path, seed=1)
    assert verdict.is_kept, verdict


def test_a_server_that_does_not_come_back_is_found(tmp_path: Path) -> None:
    sizes = {**(FRONT.short or {}), "kill_all": True, "ready_within_s": 1.0}
    verdict = run(FRONT, sizes, server=None, store=tmp_path, seed=1)
    assert not verdict.is_kept, verdict
