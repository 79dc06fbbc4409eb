"""From our errors to what gRPC clients get: a status code and TorchServe's two-line description.

The first line is the message, the second the name of TorchServe's exception: with its package on
the management port, mostly without one on the inference port. The table of HTTP statuses in
`api/responses.py` decides what an error means; this file only translates.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from flambeau import errors
from flambeau.api.responses import status_of

_MISTAKE = "the server made a mistake; its log has the request id"

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    416: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_HTTP, _MODEL = "org.pytorch.serve.http", "org.pytorch.serve.archive.model"
_PACKAGES = {
    "DownloadArchiveException": "org.pytorch.serve.archive",
    "InvalidModelException": _MODEL,
    "InvalidKeyException": _MODEL,
    "ModelException": _MODEL,
    "ModelNotFoundException": _MODEL,
    "ModelVersionNotFoundException": _MODEL,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call ends that cannot be answered.

    Attributes:
        code: gRPC's status code.
        message: The first line, for people.
        reason: The second line, the name of an exception; may be empty.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""

    @property
    def details(self) -> str:
        """The description that travels with the status."""
        return f"{self.message}\n{self.reason}" if self.reason else self.message

    @property
    def number(self) -> int:
        """The status code as the wire has it."""
        number: int = self.code.value[0]
        return number


def refuse_inference(error: Exception) -> Refusal:
    """How a prediction fails; TorchServe calls most of what it refuses itself INTERNAL."""
    match error:
        case errors.BadParameter():
            return Refusal(grpc.StatusCode.INTERNAL, str(error), "BadRequestException.()")
        case errors.NotFound():
            return Refusal(grpc.StatusCode.INTERNAL, str(error), _java_class(status_of(error)[1]))
        case errors.NoWorker() | errors.QueueFull():
            return Refusal(grpc.StatusCode.INTERNAL, str(error), "InternalServerException.()")
        case _:
            return _by_status(error, f"{_HTTP}.InternalServerException")


def refuse_lookup(error: Exception) -> Refusal:
    """How a question about a model fails: as a prediction, but for what does not exist."""
    if isinstance(error, errors.NotFound):
        kind = _java_class(status_of(error)[1])
        return Refusal(grpc.StatusCode.NOT_FOUND, str(error), kind)
    return refuse_inference(error)


def refuse_management(error: Exception) -> Refusal:
    """How a change of the models fails."""
    match error:
        case errors.MethodNotAllowed():
            kind = _java_class("ModelException")
            return Refusal(grpc.StatusCode.PERMISSION_DENIED, "Model API disabled", kind)
        case errors.Conflict():
            code = grpc.StatusCode.ALREADY_EXISTS
        case errors.DefaultVersionInUse():
            code = grpc.StatusCode.FAILED_PRECONDITION
        case errors.WorkerError():
            code = grpc.StatusCode.INTERNAL
        case _:
            return _by_status(error, _java_class(status_of(error)[1]))
    return Refusal(code, str(error), _java_class(status_of(error)[1]))


def refuse_token(error: Exception) -> Refusal:
    """How a call without the right token ends."""
    return Refusal(grpc.StatusCode.PERMISSION_DENIED, str(error))


def code_of(http_status: int) -> grpc.StatusCode:
    """The code for an HTTP status of 400 or more."""
    if http_status in _CODES:
        return _CODES[http_status]
    if http_status < 500:
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.INTERNAL


def _by_status(error: Exception, reason: str) -> Refusal:
    if not isinstance(error, errors.FlambeauError):
        return Refusal(grpc.StatusCode.INTERNAL, _MISTAKE, reason)
    return Refusal(code_of(status_of(error)[0]), str(error), reason)


def _java_class(name: str) -> str:
    """TorchServe's exception with its package, as its management port spells it."""
    return f"{_PACKAGES.get(name, _HTTP)}.{name}"
