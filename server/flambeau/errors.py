"""The errors Flambeau raises, sorted by who can act on them.

    FlambeauError
    |- ConfigError             whoever wrote the setting
    |- ArchiveError            whoever made the archive
    |  |- ArchiveExists          the store has another archive of this name
    |  |- DownloadFailed         its address cannot be fetched
    |  |- RequirementsFailed     the packages it asks for cannot be installed
    |  |- UnsuitedArchive        it is made for another PyTorch, Python or machine
    |  `- UnknownRuntime         it is written for something we do not know
    |- ExportError             whoever exports the model
    |- TuningError             whoever tunes the model
    |- RequestError            the caller
    |  |- InvalidInput           the body does not fit the model
    |  |- UnsupportedContentType the body is of a kind the handler cannot read
    |  |- BodyTooLarge           the body is over the limit
    |  |- BadParameter           a query value or JSON field is missing or wrong
    |  |- MalformedRequest       it is not HTTP, or not as we let it be
    |  |  |- TargetTooLong          its address is too long
    |  |  |- HeadTooLarge           its headers are too many or too long
    |  |  |- UnknownHost            it calls the server by a name that is not its own
    |  |  `- ExpectationFailed      it expects what nobody does
    |  |- RequestTimedOut        it does not arrive in time
    |  |- Unauthorized           no token, or none that is valid
    |  |  `- TokenRefused          the same, or one for something else, as TorchServe says it
    |  |- Forbidden              the token is for something else
    |  |- ForeignPage            a page in somebody's browser asks, not its user
    |  |- NotFound               no such route, model, version or archive
    |  |- MethodNotAllowed       the route exists, the method does not
    |  |- Quarantined            the same request ended two workers a short while ago
    |  |- DefaultVersionInUse    the default version cannot be removed while others exist
    |  `- Conflict               the request contradicts the present state
    |- Overloaded              time: try again later
    |  |- QueueFull              too many requests wait already
    |  |- NoWorker               nothing serves this version at the moment
    |  |- TooManyConnections     as many are open as may be
    |  `- DeadlineExceeded       the request waited longer than its model allows
    |- StateNotSaved           whoever runs the server: its state file cannot be written
    |  `- StateFull              for lack of room
    `- WorkerError             us, or the model's author
       |- WorkerDied             the process ended during the call
       |- WorkerTimeout          the call outlasted its deadline
       |- HandlerFailed          the handler raised, or returned what cannot be sent
       |- OutOfResources         host or device memory ran out
       `- LoadFailed             a version could not be loaded, warmed up or checked

Messages name the thing, the value and the next step. HTTP statuses are decided in one table, in
`api/responses.py`.
"""

from __future__ import annotations


class FlambeauError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(FlambeauError, ValueError):
    """A setting is missing, misspelt or out of range."""


class ArchiveError(FlambeauError):
    """An archive is unreadable, incomplete or unsafe to unpack."""


class ArchiveExists(ArchiveError):  # noqa: N818
    """The store has an archive under the name that another one was to get."""


class DownloadFailed(ArchiveError):  # noqa: N818
    """An archive's address cannot be fetched; the cause says why."""


class RequirementsFailed(ArchiveError):  # noqa: N818
    """The Python packages that an archive asks for cannot be installed."""


class UnsuitedArchive(ArchiveError):  # noqa: N818
    """An archive is made for another PyTorch, Python or machine, or a later format."""


class UnknownRuntime(ArchiveError):  # noqa: N818
    """An archive is written for a runtime that we do not know."""


class ExportError(FlambeauError):
    """A model cannot be exported, or the archive does not compute what the model computes."""


class TuningError(FlambeauError):
    """A model cannot be measured under load."""


class OptimizingError(FlambeauError):
    """A model cannot be optimised ahead of time."""


class RequestError(FlambeauError):
    """The caller can mend the request."""


class InvalidInput(RequestError):  # noqa: N818  # handlers raise it: it reads as what it says
    """The body does not decode, or does not fit the model's input."""


class UnsupportedContentType(RequestError):  # noqa: N818
    """The handler cannot read bodies of this content type."""


class BodyTooLarge(RequestError):  # noqa: N818
    """The body is larger than `max_request_bytes`."""


class BadParameter(RequestError):  # noqa: N818
    """A query value or JSON field is missing or wrong."""


class MalformedRequest(RequestError):  # noqa: N818
    """What came is not HTTP, or different readers might understand it differently."""


class TargetTooLong(MalformedRequest):
    """The request's address is too long."""


class HeadTooLarge(MalformedRequest):
    """The request's headers are too many or too long."""


class UnknownHost(MalformedRequest):
    """The request is for a host of another name."""


class ExpectationFailed(MalformedRequest):
    """The request's `Expect` header asks for something unknown."""


class RequestTimedOut(RequestError):  # noqa: N818
    """The request did not arrive within its time."""


class Unauthorized(RequestError):  # noqa: N818
    """The request carries no token, or none that is valid now."""


class TokenRefused(Unauthorized):
    """The token is missing, wrong or for something else; `token_status_400` asks for one answer."""


class Forbidden(RequestError):  # noqa: N818
    """The token is valid, but not for this."""


class ForeignPage(RequestError):  # noqa: N818
    """A page of another origin asks for a change that its user may know nothing of."""


class NotFound(RequestError):  # noqa: N818
    """No such route."""


class ModelNotFound(NotFound):
    """No model of this name is registered, or no such archive is in the store."""


class ModelVersionNotFound(NotFound):
    """The model exists, this version does not."""


class WorkflowNotFound(NotFound):
    """No workflow of this name is registered."""


class MethodNotAllowed(RequestError):  # noqa: N818
    """The route exists, but not for this method."""


class Conflict(RequestError):  # noqa: N818
    """The request contradicts the present state."""


class Quarantined(RequestError):  # noqa: N818
    """Exactly this request ended two workers a short while ago; it is not run for now."""


class DefaultVersionInUse(RequestError):  # noqa: N818
    """The default version cannot be removed while other versions exist."""


class Overloaded(FlambeauError):  # noqa: N818
    """Nothing is wrong with the request; the server cannot take it now.

    Attributes:
        retry_after_s: When trying again makes sense, in whole seconds, at least 1.
    """

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Overloaded):
    """As many requests as the queue holds are waiting already."""


class NoWorker(Overloaded):
    """The version has no worker that is ready or becoming ready."""


class TooManyConnections(Overloaded):
    """As many connections are open as `max_connections` allows."""


class DeadlineExceeded(Overloaded):
    """The request's own deadline passed before it was answered."""


class StateNotSaved(FlambeauError):  # noqa: N818
    """A change was not made, because it cannot be written down; the cause says why."""


class StateFull(StateNotSaved):
    """The same, because the disk is full."""


class WorkerError(FlambeauError):
    """The worker, or the model in it, failed; the request may be fine."""


class WorkerDied(WorkerError):  # noqa: N818
    """The worker process ended before it answered."""


class WorkerTimeout(WorkerError):  # noqa: N818
    """The worker did not answer within its deadline and was killed."""


class HandlerFailed(WorkerError):  # noqa: N818
    """The handler raised, or returned something that is not one sendable item per request.

    Attributes:
        status: The HTTP status that the handler chose for it, or None.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OutOfResources(WorkerError):  # noqa: N818
    """The worker ran out of host or device memory."""


class LoadFailed(WorkerError):  # noqa: N818
    """A version could not be loaded, warmed up or checked; the message says why."""
