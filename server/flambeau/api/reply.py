"""From a worker's reply to HTTP; what comes from a handler is checked, as it is not trusted."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import lru_cache

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flambeau.errors import FlambeauError, HandlerFailed
from flambeau.messages import Reply
from flambeau.model_version import ModelVersion
from flambeau.pending import PendingRequest
from flambeau.reply_parts import ReplyParts

_log = logging.getLogger(__name__)

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_VERSION_HEADER = "x-model-version"
_DIGEST_HEADER = "x-archive-digest"
_STREAM_NEXT = "ts_stream_next"  # TorchServe's mark of a streamed answer
_OURS = {
    *(b"connection", b"content-length", b"transfer-encoding", b"x-request-id"),
    *(_VERSION_HEADER.encode(), _DIGEST_HEADER.encode()),
    *(b"cache-control", b"expires", b"pragma"),  # as in TorchServe, where the server's win
}
_MAX_KNOWN = 1024

Headers = list[tuple[bytes, bytes]]


def headers_of(pending: PendingRequest, reply: Reply, *, version: ModelVersion) -> Headers:
    """The headers of an answer: the handler's, and what we say about it.

    `x-model-version` tells which version answered, also while the default changes, and
    `x-archive-digest`, where the server's settings ask for it, of which archive it is.

    Raises:
        HandlerFailed: A status or header that HTTP cannot carry.
    """
    if not 200 <= reply.status <= 599:
        raise HandlerFailed(f"the handler set status {reply.status}; use 200 to 599")
    headers: Headers = list(_version_headers(version.version, version.shown_digest))
    if pending.sequence is not None:
        headers.append((version.sequence_header.encode(), pending.sequence.id.encode("latin-1")))
    if pending.rest is not None:
        headers.append((_STREAM_NEXT.encode(), b"true"))
    taken = {name for name, _ in headers}
    for name, value in reply.headers:
        header = _checked(name, value)
        if header is None:
            raise HandlerFailed(f"the handler set a header that HTTP cannot carry: {name!r}")
        if header[0] not in taken and header[0] not in _OURS:
            headers.append(header)
    return headers


@lru_cache(_MAX_KNOWN)
def _version_headers(version: str, digest: str) -> Headers:
    """Versions are free text, which HTTP may not be able to carry."""
    headers: Headers = []
    if _HEADER_VALUE.fullmatch(version):
        headers.append((_VERSION_HEADER.encode(), version.encode("latin-1")))
    if digest:
        headers.append((_DIGEST_HEADER.encode(), digest.encode("ascii")))
    return headers


@lru_cache(_MAX_KNOWN)  # most handlers set the same each time
def _checked(name: str, value: str) -> tuple[bytes, bytes] | None:
    """A header as it is sent; None when HTTP cannot carry it."""
    if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
        return None
    return name.lower().encode("latin-1"), value.encode("latin-1")


def to_response(reply: Reply, headers: Headers) -> Response:
    """An answer that is whole."""
    response = Response(reply.body, status_code=reply.status)
    response.raw_headers.extend(headers)
    return response


class StreamedResponse(Response):
    """An answer in parts, each sent as soon as it is there.

    When it cannot be completed, the connection is closed without the end of the body, so that no
    client takes what came for all.
    """

    def __init__(self, first: Reply, headers: Headers, rest: ReplyParts) -> None:
        super().__init__(status_code=first.status)
        self._first = first
        self._rest = rest
        self.raw_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(self._close_when_gone(receive))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await _send_part(send, self._first)
            async for part in self._rest:
                await _send_part(send, part)
        except FlambeauError as error:
            _log.warning(
                "a streamed answer ends early: %s",
                error,
                extra={"request_id": scope["state"]["request_id"], "path": scope["path"]},
            )
        else:
            await send({"type": "http.response.body"})
        finally:
            leaving.cancel()
            self._rest.close()

    async def _close_when_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._rest.close()


async def _send_part(send: Send, part: Reply) -> None:
    if part.body:
        await send({"type": "http.response.body", "body": part.body, "more_body": True})
