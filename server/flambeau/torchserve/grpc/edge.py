"""What surrounds every gRPC call: its id, its token, its refusal, and the access log."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from flambeau import audit
from flambeau.api.responses import status_of
from flambeau.errors import (
    DownloadFailed,
    FlambeauError,
    Forbidden,
    Unauthorized,
    WorkerError,
)
from flambeau.torchserve.grpc.refusals import Refusal, refuse_token

_access = logging.getLogger("flambeau.access")
_log = logging.getLogger(__name__)

_Req = TypeVar("_Req", bound=Message)
_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Refuse: TypeAlias = Callable[[Exception], Refusal]
CheckToken: TypeAlias = Callable[[str | None], None]
"""Takes a call's `authorization`; raises Unauthorized or Forbidden."""

_OK, _CANCELLED = 0, 1  # as the wire has them
_AUTHORIZATION = "authorization"
_EXPLAINED = (WorkerError, DownloadFailed)  # as over HTTP
_MAX_REASON_CHARS = 1000  # clients allow 8 KiB of metadata in all, unless told otherwise


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the services see it.

    Attributes:
        request_id: Made here; in every log line about the call.
        metadata: What the client sent with it: names in lower case, text values only, no token.
        trailers: What the client gets after the answer, by name.
    """

    request_id: str
    metadata: list[tuple[str, str]]
    trailers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the calls of one port have in common.

    Attributes:
        listener: The port's name in logs.
        access_log: Whether each call is logged.
        check_token: Refuses calls without the right token.
        who: Says what a caller showed, for people.
    """

    listener: str
    access_log: bool
    check_token: CheckToken
    who: Callable[[str | None], str]


class Rpcs:
    """Collects the calls of one gRPC service, each with what surrounds it."""

    def __init__(self, service: str, surroundings: Surroundings, *, refuse: Refuse) -> None:
        """Begin with none.

        Args:
            service: Its full name, with the package.
            surroundings: What every call of the port has.
            refuse: Says how an error ends a call.
        """
        self.service = service
        self._surroundings = surroundings
        self._refuse = refuse
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, for a server."""
        return grpc.method_handlers_generic_handler(self.service, self._handlers)

    def unary(
        self,
        name: str,
        request: type[_Req],
        run: Callable[[_Req, Call], Awaitable[Message]],
        *,
        refuse: Refuse | None = None,
        is_open: bool = False,
        changes: bool = False,
    ) -> None:
        """Add a call with one message each way.

        Args:
            name: The call's name.
            request: The class of its message.
            run: Answers it, or raises.
            refuse: Says how an error ends it, where the service's way does not fit.
            is_open: Whether it is answered without a token.
            changes: Whether it changes what is served, and so is recorded.
        """

        async def answer(message: _Req, context: _Context) -> Message:
            audited = message if changes else None
            async with self._around(
                name, context, refuse, is_open=is_open, audited=audited
            ) as call:
                return await run(message, call)
            raise AssertionError  # an error has ended the call

        self._handlers[name] = grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=_to_bytes
        )

    def unary_stream(
        self,
        name: str,
        request: type[_Req],
        run: Callable[[_Req, Call], AsyncGenerator[Message, None]],
        *,
        is_open: bool = False,
    ) -> None:
        """Add a call that answers one message with many; see `unary`."""

        async def answer(message: _Req, context: _Context) -> None:
            async with (
                self._around(name, context, None, is_open=is_open) as call,
                aclosing(run(message, call)) as parts,
            ):
                async for part in parts:
                    await context.write(part)

        self._handlers[name] = grpc.unary_stream_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=_to_bytes
        )

    def stream_stream(
        self,
        name: str,
        request: type[_Req],
        run: Callable[[AsyncIterator[_Req], Call], AsyncGenerator[Message, None]],
    ) -> None:
        """Add a call with many messages each way; see `unary`."""

        async def answer(messages: AsyncIterator[_Req], context: _Context) -> None:
            async with (
                self._around(name, context, None, is_open=False) as call,
                aclosing(run(messages, call)) as parts,
            ):
                async for part in parts:
                    await context.write(part)

        self._handlers[name] = grpc.stream_stream_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=_to_bytes
        )

    @asynccontextmanager
    async def _around(
        self,
        name: str,
        context: _Context,
        refuse: Refuse | None,
        *,
        is_open: bool,
        audited: Message | None = None,
    ) -> AsyncGenerator[Call, None]:
        """Check the token, end the call with a status when it fails, and log how it ended."""
        started_at = time.monotonic()
        metadata = _text_metadata(context)
        token = dict(metadata).get(_AUTHORIZATION)
        call = Call(str(uuid.uuid4()), [pair for pair in metadata if pair[0] != _AUTHORIZATION])
        code = _CANCELLED
        try:
            if not is_open:
                self._surroundings.check_token(token)
            yield call
            code = _OK
            context.set_trailing_metadata(_trailers(call))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # any of them ends the call with a status
            refusal = self._refusal(error, refuse, call)
            if isinstance(error, _EXPLAINED) and error.__cause__ is not None:
                call.trailers["x-reason"] = _one_line(str(error.__cause__))
            code = refusal.number
            await context.abort(refusal.code, refusal.details, _trailers(call))
        finally:
            self._note(name, context, code, call, time.monotonic() - started_at)
            if audited is not None:
                self._audit(name, context, code, call, audited, who=self._surroundings.who(token))

    def _refusal(self, error: Exception, refuse: Refuse | None, call: Call) -> Refusal:
        if isinstance(error, (Unauthorized, Forbidden)):
            return refuse_token(error)
        if status_of(error)[0] >= 500:
            _log.warning(
                "%s: %s",
                type(error).__name__,
                error,
                extra={"request_id": call.request_id, "listener": self._surroundings.listener},
                exc_info=None if isinstance(error, FlambeauError) else error,
            )
        return (refuse or self._refuse)(error)

    def _note(self, name: str, context: _Context, code: int, call: Call, duration_s: float) -> None:
        if not self._surroundings.access_log:
            return
        quiet = name in _PROBES and code == _OK
        _access.log(
            logging.DEBUG if quiet else logging.INFO,
            "gRPC %s/%s HTTP/2.0 %s",
            self.service,
            name,
            code,
            extra={
                "request_id": call.request_id,
                "listener": self._surroundings.listener,
                **_client(context),
                "method": "gRPC",
                "path": f"{self.service}/{name}",
                "http_version": "2.0",
                "status": code,
                "duration_ms": round(duration_s * 1000, 3),
            },
        )

    def _audit(
        self, name: str, context: _Context, code: int, call: Call, message: Message, *, who: str
    ) -> None:
        client = _client(context)
        audit.note(
            f"gRPC {self.service}/{name}",
            code,
            who=who,
            client=(str(client["client"]), int(client["client_port"])),
            request_id=call.request_id,
            listener=self._surroundings.listener,
            arguments=MessageToDict(message, preserving_proto_field_name=True),
            certificate=_certificate(context),
        )


_PROBES = {"Ping", "ServerLive", "ServerReady", "ModelReady", "Check"}  # every few seconds


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _text_metadata(context: _Context) -> list[tuple[str, str]]:
    pairs = context.invocation_metadata() or ()
    return [(str(name), value) for name, value in pairs if isinstance(value, str)]


def _trailers(call: Call) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", call.request_id), *call.trailers.items())


def _one_line(text: str) -> str:
    """Text as metadata can carry it: printable ASCII, and not much of it."""
    printable = "".join(each if each.isprintable() and each.isascii() else " " for each in text)
    return printable.strip()[:_MAX_REASON_CHARS]


def _certificate(context: _Context) -> str:
    """Whom the client's certificate is for, as RFC 4514 writes it; empty where there is none."""
    return b"".join(context.auth_context().get("x509_subject", ())).decode(errors="replace")


def _client(context: _Context) -> dict[str, str | int]:
    """The client's address, of what gRPC gives: `ipv4:127.0.0.1:5000`, `ipv6:[::1]:5000`."""
    kind, _, address = unquote(context.peer()).partition(":")
    if not kind.startswith("ip"):
        return {"client": kind, "client_port": 0}
    host, _, port = address.rpartition(":")
    return {"client": host.strip("[]"), "client_port": int(port) if port.isdecimal() else 0}
