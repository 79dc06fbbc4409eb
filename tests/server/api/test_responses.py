from __future__ import annotations

import json

import pytest

from flambeau import errors
from flambeau.api.responses import STATUS, error_response


def error_classes() -> list[type[errors.FlambeauError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.FlambeauError)
    ]


@pytest.mark.parametrize("kind", error_classes())
def test_every_error_of_ours_has_the_documented_shape(kind: type[errors.FlambeauError]) -> None:
    response = error_response(kind("the reason"))
    body = bytes(response.body)
    document = json.loads(body)
    assert document["code"] == response.status_code
    assert document["type"].endswith("Exception")
    assert document["message"] == "the reason"
    assert body.startswith(b'{\n  "code"')
    assert body.endswith(b"}\n")


@pytest.mark.parametrize(
    ("kind", "code", "name"),
    [
        (errors.ModelNotFound, 404, "ModelNotFoundException"),
        (errors.ModelVersionNotFound, 404, "ModelVersionNotFoundException"),
        (errors.NotFound, 404, "ResourceNotFoundException"),
        (errors.InvalidInput, 400, "BadRequestException"),
        (errors.ArchiveError, 400, "InvalidModelException"),
        (errors.Conflict, 409, "ConflictStatusException"),
        (errors.DefaultVersionInUse, 403, "InvalidModelVersionException"),
        (errors.MethodNotAllowed, 405, "MethodNotAllowedException"),
        (errors.QueueFull, 503, "ServiceUnavailableException"),
        (errors.WorkerDied, 500, "InternalServerException"),
        (errors.HandlerFailed, 503, "InternalServerException"),
        (errors.OutOfResources, 507, "InternalServerException"),
    ],
)
def test_statuses_and_names_are_torchserve_s(
    kind: type[errors.FlambeauError], code: int, name: str
) -> None:
    response = error_response(kind("x"))
    assert (response.status_code, json.loads(bytes(response.body))["type"]) == (code, name)


def test_the_closest_class_decides() -> None:
    class Special(errors.ModelNotFound):
        pass

    assert error_response(Special("x")).status_code == 404


def test_an_overloaded_server_says_when_to_come_back() -> None:
    assert error_response(errors.QueueFull("x", retry_after_s=3)).headers["retry-after"] == "3"


def test_the_connection_is_closed_when_a_body_is_left_unread() -> None:
    assert error_response(errors.BodyTooLarge("x")).headers["connection"] == "close"


def test_the_cause_of_a_failed_start_travels_as_reason() -> None:
    error = errors.LoadFailed("Failed to start workers")
    error.__cause__ = errors.LoadFailed("no module named x")
    document = json.loads(bytes(error_response(error).body))
    assert document["message"] == "Failed to start workers"
    assert document["reason"] == "no module named x"


def test_a_mistake_of_ours_shows_nothing_of_the_inside() -> None:
    response = error_response(RuntimeError("secret path"))
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)


def test_the_table_names_only_errors_that_exist() -> None:
    assert set(STATUS) <= set(error_classes())
