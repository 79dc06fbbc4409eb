"""The table of what operations answer; tests/integration/test_api_documents.py asks a server."""

from __future__ import annotations

from typing import Any

import pytest

from flambeau.api.openapi_answers import ANSWERS, Answers, components
from flambeau.api.responses import STATUS

ERROR = {"$ref": "#/components/schemas/Error"}


def schema_of(response: Any) -> object:  # noqa: ANN401  # a document
    return response["content"]["application/json"]["schema"]


def test_every_status_of_our_errors_is_told_of_some_operation() -> None:
    told = components(keys=True)["responses"]
    assert {str(status) for status, _ in STATUS.values()} <= told.keys()
    assert all(schema_of(response) == ERROR for response in told.values())


def test_what_keys_are_asked_for_is_told_where_they_are() -> None:
    assert "401" in ANSWERS["predictions"].responses(keys=True)
    assert "401" not in ANSWERS["predictions"].responses(keys=False)
    assert "401" not in ANSWERS["ping"].responses(keys=True)
    assert "securitySchemes" in components(keys=True)
    assert "securitySchemes" not in components(keys=False)


def test_a_status_with_two_meanings_has_either_body() -> None:
    not_ready = {"type": "object"}
    responses = Answers(others={503: not_ready, 500: not_ready}).responses(keys=False)
    assert schema_of(responses["503"]) == {"anyOf": [not_ready, ERROR]}
    assert schema_of(responses["500"]) == not_ready


@pytest.mark.parametrize("operation", ANSWERS)
def test_whatever_is_asked_for_may_be_refused_before(operation: str) -> None:
    told = ANSWERS[operation].responses(keys=False)
    assert {"200", "400", "408", "414", "415", "417", "431", "503"} <= told.keys()
