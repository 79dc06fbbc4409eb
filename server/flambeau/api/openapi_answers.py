"""Every status that each operation may answer with, and the shape of its body.

What refuses any request, whatever it asks for, is in `ANY_REQUEST`; the rest is in one table, by
the operation's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from flambeau.api import openapi_schemas as shapes
from flambeau.api.openapi_schemas import Schema
from flambeau.api.prediction import PATHS

ANY_REQUEST: Final = (400, 408, 414, 415, 417, 421, 431, 503)
"""Not HTTP, too slow, an address too long, an unknown coding, another expectation than
`100-continue`, a host of another name, headers too long, and one connection too many."""

_WITHOUT_KEY: Final = (401, 403)
_JSON: Final = "application/json"
_ERROR: Final[Schema] = {"$ref": "#/components/schemas/Error"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one operation answers.

    Attributes:
        body: The shape of a success; None for an empty one.
        media_type: Its type.
        successes: The statuses that have it.
        errors: Other statuses than those of `ANY_REQUEST`.
        others: What has a body of its own although it is no success.
        may_choose: Whether a handler may choose another status, and the body that goes with it.
        is_open: Whether it asks for no key.
    """

    body: Schema | None = field(default_factory=lambda: shapes.OBJECT)
    media_type: str = _JSON
    successes: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()
    others: Mapping[int, Schema] = field(default_factory=dict[int, Schema])
    may_choose: bool = False
    is_open: bool = False

    def responses(self, *, keys: bool) -> dict[str, object]:
        """The `responses` of the operation.

        Args:
            keys: Whether the server asks for keys.
        """
        content = {} if self.body is None else {self.media_type: {"schema": self.body}}
        found: dict[int, dict[str, object]] = {
            status: _response(status, content) for status in self.successes
        }
        refused = _WITHOUT_KEY if keys and not self.is_open else ()
        for status in {*ANY_REQUEST, *refused, *self.errors}:
            found[status] = {"$ref": f"#/components/responses/{status}"}
        for status, body in self.others.items():
            schema = {"anyOf": [body, _ERROR]} if status in found else body
            found[status] = _response(status, {_JSON: {"schema": schema}})
        told: dict[str, object] = {str(status): found[status] for status in sorted(found)}
        if self.may_choose:
            told["default"] = {"description": "What the model's handler chose"}
        return told


def _response(status: int, content: Mapping[str, object]) -> dict[str, object]:
    described: dict[str, object] = {"description": HTTPStatus(status).phrase}
    return {**described, "content": content} if content else described


_PREDICTION: Final = Answers(
    body=shapes.ANYTHING,
    media_type="*/*",
    errors=(404, 413, 422, 500, 504, 507),
    may_choose=True,
)
_DESCRIPTION: Final = Answers(body=shapes.DESCRIPTIONS, errors=(404, 500))
_SCALING: Final = Answers(
    body=shapes.STATUS, successes=(200, 202, 206), errors=(403, 404, 413, 500, 507)
)
_REMOVAL: Final = Answers(body=shapes.STATUS, errors=(403, 404, 405, 507))
_REGISTRATION: Final = Answers(
    body=shapes.STATUS,
    successes=(200, 202, 206),
    errors=(403, 404, 405, 409, 413, 422, 500, 507),
)
_METADATA: Final = Answers(body=shapes.METADATA, errors=(404,))
_READINESS: Final = Answers(body=shapes.READINESS, errors=(404,), others={503: shapes.READINESS})
_DOCUMENT: Final = Answers(body=shapes.DOCUMENT, is_open=True)

ANSWERS: Final[Mapping[str, Answers]] = {
    # every listener
    "apiDescription": _DOCUMENT,
    "api-description": _DOCUMENT,
    "ping": Answers(body=shapes.STATUS, others={500: shapes.STATUS}, is_open=True),
    "livez": Answers(body=shapes.STATUS, is_open=True),
    "readyz": Answers(body=shapes.STATUS, others={503: shapes.NOT_READY}, is_open=True),
    # inference
    **dict.fromkeys((each.operation_id for each in PATHS), _PREDICTION),
    "invocations": _PREDICTION,
    "wfpredict": _PREDICTION,
    "v2_server_metadata": Answers(body=shapes.SERVER, is_open=True),
    "v2_live": Answers(body=shapes.LIVE, is_open=True),
    "v2_ready": Answers(body=shapes.READINESS, others={503: shapes.READINESS}, is_open=True),
    "v2_model_metadata": _METADATA,
    "v2_version_metadata": _METADATA,
    "v2_model_ready": _READINESS,
    "v2_version_ready": _READINESS,
    # management
    "registerModel": _REGISTRATION,
    "listModels": Answers(body=shapes.MODELS),
    "deployModel": Answers(
        body=shapes.STRING,
        media_type="application/x-ndjson",
        errors=(403, 404, 405, 409, 413, 422, 500, 507),
    ),
    "describeModel": _DESCRIPTION,
    "version_describeModel": _DESCRIPTION,
    "setAutoScale": _SCALING,
    "version_setAutoScale": _SCALING,
    "setDefault": Answers(body=shapes.STATUS, errors=(403, 404, 409, 507)),
    "unregisterModel": _REMOVAL,
    "version_unregisterModel": _REMOVAL,
    "modelReady": Answers(body=shapes.READINESS, errors=(404,)),
    "registerWorkflow": _REGISTRATION,
    "listWorkflows": Answers(body=shapes.WORKFLOWS),
    "describeWorkflow": Answers(body=shapes.WORKFLOW_DESCRIPTIONS, errors=(404,)),
    "unregisterWorkflow": _REMOVAL,
    "token": Answers(body=None, errors=(500,)),
    # metrics
    "metrics": Answers(body=shapes.STRING, media_type="text/plain", is_open=True),
}


def components(*, keys: bool) -> dict[str, Any]:
    """What the operations of a document refer to."""
    statuses = {*ANY_REQUEST, *_WITHOUT_KEY, *(s for each in ANSWERS.values() for s in each.errors)}
    content = {_JSON: {"schema": _ERROR}}
    schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    return {
        "schemas": {"Error": shapes.ERROR},
        "responses": {str(status): _response(status, content) for status in sorted(statuses)},
        **(schemes if keys else {}),
    }
