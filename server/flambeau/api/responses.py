"""The one table from our errors to HTTP, and the shapes every response shares.

Bodies and type names are TorchServe's: errors are `{"code", "type", "message"}`, messages are
`{"status"}`, both two-space indented with a newline at the end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from flambeau import errors

_log = logging.getLogger(__name__)

NOT_FOUND_TEXT = "Requested resource is not found, please refer to API document."
METHOD_TEXT = "Requested method is not allowed, please refer to API document."

# status and TorchServe's exception name; the closest base class of an error decides
STATUS: dict[type[BaseException], tuple[int, str]] = {
    errors.ConfigError: (400, "BadRequestException"),
    errors.ArchiveError: (400, "InvalidModelException"),
    errors.ArchiveExists: (500, "InternalServerException"),
    errors.DownloadFailed: (400, "DownloadArchiveException"),
    errors.UnsuitedArchive: (422, "InvalidModelException"),
    errors.RequirementsFailed: (400, "ModelException"),
    errors.RequestError: (400, "BadRequestException"),
    errors.UnsupportedContentType: (415, "UnsupportedMediaTypeException"),
    errors.BodyTooLarge: (413, "RequestEntityTooLargeException"),
    errors.TargetTooLong: (414, "BadRequestException"),
    errors.HeadTooLarge: (431, "BadRequestException"),
    errors.UnknownHost: (421, "BadRequestException"),
    errors.ExpectationFailed: (417, "BadRequestException"),
    errors.RequestTimedOut: (408, "RequestTimeoutException"),
    errors.Quarantined: (422, "UnprocessableRequestException"),
    errors.NotFound: (404, "ResourceNotFoundException"),
    errors.ModelNotFound: (404, "ModelNotFoundException"),
    errors.ModelVersionNotFound: (404, "ModelVersionNotFoundException"),
    errors.WorkflowNotFound: (404, "WorkflowNotFoundException"),
    errors.MethodNotAllowed: (405, "MethodNotAllowedException"),
    errors.DefaultVersionInUse: (403, "InvalidModelVersionException"),
    errors.Unauthorized: (401, "InvalidKeyException"),
    errors.TokenRefused: (400, "InvalidKeyException"),
    errors.Forbidden: (403, "InvalidKeyException"),
    errors.ForeignPage: (403, "BadRequestException"),
    errors.Conflict: (409, "ConflictStatusException"),
    errors.Overloaded: (503, "ServiceUnavailableException"),
    errors.DeadlineExceeded: (408, "RequestTimeoutException"),
    errors.StateNotSaved: (503, "ServiceUnavailableException"),
    errors.StateFull: (507, "InternalServerException"),
    errors.WorkerError: (500, "InternalServerException"),
    errors.HandlerFailed: (503, "InternalServerException"),
    errors.WorkerTimeout: (504, "InternalServerException"),
    errors.OutOfResources: (507, "InternalServerException"),
}
_UNEXPECTED = (500, "InternalServerException")


class PrettyJSON(Response):
    """A JSON document as TorchServe writes it."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def status_message(text: str, *, code: int = 200) -> PrettyJSON:
    """`{"status": text}`."""
    return PrettyJSON({"status": text}, status_code=code)


def status_of(error: BaseException) -> tuple[int, str]:
    """The HTTP status and TorchServe's exception name of an error."""
    code, kind = next((STATUS[base] for base in type(error).__mro__ if base in STATUS), _UNEXPECTED)
    if isinstance(error, errors.HandlerFailed) and error.status is not None:
        code = error.status
    return code, kind


def error_response(error: BaseException, *, headers: Mapping[str, str] | None = None) -> PrettyJSON:
    """The answer to a request that failed with `error`."""
    code, kind = status_of(error)
    explained = isinstance(error, (errors.WorkerError, errors.DownloadFailed))
    if explained and error.__cause__ is not None:
        return error_body(code, kind, str(error), reason=str(error.__cause__))
    extra = dict(headers or {})
    if isinstance(error, errors.Overloaded):
        extra["retry-after"] = str(error.retry_after_s)
    if code == HTTPStatus.UNAUTHORIZED:
        extra["www-authenticate"] = "Bearer"
    if isinstance(error, errors.BodyTooLarge):
        extra["connection"] = "close"  # the rest of the body is not read
    known = isinstance(error, errors.FlambeauError)
    text = str(error) if known else "the server made a mistake; its log has the request id"
    return error_body(code, kind, text, headers=extra)


def answer_error(error: BaseException, *, request_id: str, path: str) -> PrettyJSON:
    """The answer to a request that failed; what the operator should know goes to the log."""
    response = error_response(error)
    if response.status_code >= 500:
        _log.warning(
            "%s: %s",
            type(error).__name__,
            error,
            extra={"request_id": request_id, "path": path},
            exc_info=None if isinstance(error, errors.FlambeauError) else error,
        )
    return response


def error_body(
    code: int,
    kind: str,
    message: str,
    *,
    reason: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> PrettyJSON:
    """`{"code", "type", "message"}`, and `reason` where there is a cause behind the message."""
    document: dict[str, object] = {"code": code, "type": kind, "message": message}
    if reason is not None:
        document["reason"] = reason
    return PrettyJSON(document, status_code=code, headers=dict(headers or {}))


def http_error(code: int) -> PrettyJSON:
    """The answer to what the router itself refuses, e.g. an unknown path."""
    if code == HTTPStatus.NOT_FOUND:
        return error_response(errors.NotFound(NOT_FOUND_TEXT))
    if code == HTTPStatus.METHOD_NOT_ALLOWED:
        return error_response(errors.MethodNotAllowed(METHOD_TEXT))
    return error_body(code, "BadRequestException", HTTPStatus(code).phrase)
