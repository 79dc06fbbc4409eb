"""What every way into a model shares: headers as handlers see them, counting, and the parts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import contextmanager

from flambeau.errors import FlambeauError, Overloaded, RequestError
from flambeau.messages import InferenceRequest, Reply
from flambeau.model_version import ModelVersion

_INTERNAL = {"url_path", "explain", "describe"}  # what the front tells handlers, not clients


def handler_headers(
    client: Iterable[tuple[str, str]],
    *,
    url_path: str | None = "",
    explain: bool | None = False,
) -> list[tuple[str, str]]:
    """A client's headers as its handler gets them.

    Args:
        client: Names in lower case, with their values.
        url_path: What followed the model in the path; None where paths have no such part.
        explain: Whether the client asks for an explanation; None where it cannot.
    """
    kept = [(name, value) for name, value in client if name not in _INTERNAL]
    told = {"url_path": url_path, "explain": explain}
    return [*kept, *((name, str(value)) for name, value in told.items() if value is not None)]


@contextmanager
def counted(
    version: ModelVersion,
    *,
    gone: type[BaseException] = asyncio.CancelledError,
    version_given: bool = True,
) -> Generator[None]:
    """Count the request inside by its outcome.

    Args:
        version: What answers it.
        gone: Means that its client went away.
        version_given: Whether the client asked for this version, not for the default.
    """
    started_at = time.monotonic()
    outcome = "worker_error"
    try:
        yield
        outcome = "ok"
    except (gone, GeneratorExit):
        outcome = "cancelled"
        raise
    except FlambeauError as error:
        outcome = outcome_of(error)
        raise
    finally:
        version.metrics.request_done(
            outcome=outcome,
            duration_s=time.monotonic() - started_at,
            version_given=version_given,
        )


def outcome_of(error: BaseException) -> str:
    """The outcome, of those that metrics know, of a request that failed."""
    match error:
        case RequestError():
            return "request_error"
        case Overloaded():
            return "overloaded"
        case _:
            return "worker_error"


async def reply_parts(
    version: ModelVersion, request: InferenceRequest, *, version_given: bool = True
) -> AsyncGenerator[Reply, None]:
    """Submit a request, and give its answer part by part; most answers are one part.

    Closing the generator, or cancelling the task that waits for it, withdraws the request.

    Args:
        version: What answers it.
        request: What the worker will see.
        version_given: Whether the client asked for this version, not for the default.

    Raises:
        FlambeauError: The request failed; parts may have come before.
    """
    with counted(version, version_given=version_given):
        pending = version.submit(request, version_given=version_given)
        try:
            yield await pending.reply
            if pending.rest is not None:
                async for part in pending.rest:
                    yield part
        except BaseException:
            pending.abandon()
            if pending.rest is not None:
                pending.rest.close()
            raise
