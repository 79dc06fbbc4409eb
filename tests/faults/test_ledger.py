"""The judge itself: it must find what is wrong, or its zeros mean nothing."""

from __future__ import annotations

import httpx
import pytest

from tests.faults.ledger import Ledger, Outcome, Sent, classify_answer

SENT = Sent(nonce=7, x=10, client=0, fault=None, at=0.0)
ERROR = {"code": 503, "type": "ServiceUnavailableException", "message": "full"}
MISTAKE = {"code": 500, "type": "x", "message": "the server made a mistake; its log has it"}


def answer(status: int, document: object, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=document, headers=named)


@pytest.mark.parametrize(
    ("document", "version", "outcome"),
    [
        ({"y": 27, "nonce": 7, "version": "1.0"}, "1.0", Outcome.RIGHT),
        ({"y": 28, "nonce": 7, "version": "1.0"}, "1.0", Outcome.WRONG),
        ({"y": 27, "nonce": 8, "version": "1.0"}, "1.0", Outcome.WRONG),
        ({"y": 27, "nonce": 7, "version": "1.0"}, "2.0", Outcome.WRONG),
        ({"y": 27, "nonce": 7, "version": ""}, "", Outcome.WRONG),
        ([], "1.0", Outcome.WRONG),
    ],
)
def test_an_answer_is_right_only_if_it_is_f_of_its_own_nonce_and_names_its_version(
    document: object, version: str, outcome: Outcome
) -> None:
    found = classify_answer(SENT, answer(200, document, x_model_version=version), ended_at=1.0)
    assert found.outcome is outcome


@pytest.mark.parametrize(
    ("status", "document", "request_id", "outcome"),
    [
        (503, ERROR, "a", Outcome.ERROR),
        (503, ERROR, "", Outcome.UNCLEAR),
        (500, ERROR, "a", Outcome.UNCLEAR),
        (503, {"code": 503}, "a", Outcome.UNCLEAR),
        (503, "full", "a", Outcome.UNCLEAR),
        (502, ERROR | {"code": 502}, "a", Outcome.UNCLEAR),
        (500, MISTAKE, "a", Outcome.UNCLEAR),
    ],
)
def test_an_error_is_clear_only_if_it_is_documented_and_says_what_and_whose(
    status: int, document: object, request_id: str, outcome: Outcome
) -> None:
    found = classify_answer(SENT, answer(status, document, x_request_id=request_id), ended_at=1.0)
    assert found.outcome is outcome


def test_what_the_test_itself_cuts_is_not_lost_and_all_else_is() -> None:
    ledger = Ledger()
    reset, refused = httpx.ReadError("reset"), httpx.ConnectError("refused")
    late = httpx.ReadTimeout("late")
    assert ledger.failed(SENT, refused).outcome is Outcome.CUT
    assert ledger.failed(SENT, reset).outcome is Outcome.UNCLEAR
    with ledger.cutting():
        assert ledger.failed(SENT, reset).outcome is Outcome.CUT
        assert ledger.failed(SENT, late).outcome is Outcome.UNCLEAR
    assert ledger.lost == 2


def test_only_what_is_sent_after_the_end_was_announced_may_be_cut() -> None:
    ledger = Ledger()
    ledger.cut_from_now()
    later = Sent(nonce=8, x=1, client=0, fault=None, at=float("inf"))
    assert ledger.failed(SENT, httpx.ReadError("reset")).outcome is Outcome.UNCLEAR
    assert ledger.failed(later, httpx.ReadError("reset")).outcome is Outcome.CUT


def test_lost_requests_are_those_that_are_neither_right_nor_clear_nor_cut() -> None:
    ledger = Ledger()
    ledger.answered(
        SENT, answer(200, {"y": 27, "nonce": 7, "version": "1.0"}, x_model_version="1.0")
    )
    ledger.answered(
        SENT, answer(200, {"y": 0, "nonce": 7, "version": "1.0"}, x_model_version="1.0")
    )
    ledger.answered(SENT, answer(503, ERROR, x_request_id="a"))
    ledger.answered(SENT, answer(502, "bad gateway"))
    assert ledger.lost == 2
    assert len(ledger.reasons()) == 2
