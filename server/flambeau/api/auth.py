"""Who may call what: each route declares a role, and asks for that role's key before all else.

    router = APIRouter(route_class=ManagementRoute)

The role belongs to the route that matched, never to the text of the address. `create_app` refuses
routers with routes that declare nothing. A key goes no further than this file: the header is taken
off the request before a handler or a log sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from flambeau import audit
from flambeau.api.openapi import PARAMETERS
from flambeau.api.responses import status_of
from flambeau.errors import (
    BadParameter,
    FlambeauError,
    Forbidden,
    TokenRefused,
    Unauthorized,
)
from flambeau.key_file import Tokens
from flambeau.tokens import KeyRing, Role, Verdict

HEADER = b"authorization"
_REFUSED_STATUSES = {401, 403}
_REFUSED = "Token {} failed. Token either incorrect, expired, or not provided correctly"


class Guard:
    """Lets callers in who show the right key; without keys, everybody."""

    def __init__(
        self,
        keys: KeyRing | None,
        *,
        status_400: bool = False,
        on_refused: Callable[[Role], None] = lambda _: None,
    ) -> None:
        """Guard a server.

        Args:
            keys: What callers have to show; None asks for nothing.
            status_400: Answer 400 to all that is wrong with a token, as TorchServe does.
            on_refused: Called with what a caller wanted who showed no right key for it.
        """
        self._keys = keys
        self._status_400 = status_400
        self._on_refused = on_refused

    @property
    def is_on(self) -> bool:
        """Whether it asks for anything."""
        return self._keys is not None

    def check(self, values: Sequence[bytes], role: Role) -> None:
        """Let a caller pass, or raise.

        Args:
            values: All `authorization` headers, or metadata, of the call.
            role: What the called route is for.

        Raises:
            BadParameter: More than one header.
            Unauthorized: No key, or none that is valid now.
            Forbidden: A key for something else.
            TokenRefused: Either of the last two, with `status_400`.
        """
        if self._keys is None:
            return
        if len(values) > 1:
            raise BadParameter(f"the request has {len(values)} Authorization headers; send one")
        verdict = self._keys.check(_shown_key(values), role)
        if verdict is not Verdict.VALID:
            self._on_refused(role)
            raise self._refusal(verdict, role)

    def who(self, values: Sequence[bytes]) -> str:
        """What a caller with these `authorization` headers showed, for people; names no key."""
        if self._keys is None:
            return "anybody"
        key = self._keys.find(_shown_key(values))
        return "no valid key" if key is None else f"{key.role.value} key {key.name}"

    def checker(self, role: Role) -> Callable[[str | None], None]:
        """`check` for callers that have one value or none, e.g. gRPC metadata."""
        return lambda value: self.check([] if value is None else [value.encode()], role)

    def admit(self, headers: list[tuple[bytes, bytes]], role: Role) -> list[tuple[bytes, bytes]]:
        """Let an HTTP request pass, or raise as `check`; returns its headers without the key."""
        if self._keys is None:
            return headers
        self.check([value for name, value in headers if name == HEADER], role)
        return [pair for pair in headers if pair[0] != HEADER]

    def trusts(self, scope: Scope) -> bool:
        """Whether the caller shows any valid key, or need not."""
        if self._keys is None:
            return True
        shown = _shown_key([value for name, value in scope["headers"] if name == HEADER])
        return self._keys.check(shown, Role.MANAGEMENT) is not Verdict.UNKNOWN

    def stranger(self, scope: Scope) -> FlambeauError | None:
        """What a caller hears who shows no valid key and asks for a path that is not there.

        None for everybody else: they may know which paths there are.
        """
        return None if self.trusts(scope) else self._refusal(Verdict.UNKNOWN, Role.MANAGEMENT)

    def _refusal(self, verdict: Verdict, role: Role) -> FlambeauError:
        text = _REFUSED.format("Authentication" if role is Role.API else "Authorization")
        if self._status_400:
            return TokenRefused(text)
        return Forbidden(text) if verdict is Verdict.OTHER_ROLE else Unauthorized(text)


class GuardedRoute(APIRoute):
    """A route with a declared role; use one of the classes below.

    Attributes:
        role: Whose key it asks for; None for nobody's.
    """

    role: ClassVar[Role | None]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key, even before the method."""
        if self.role is not None:
            guard: Guard = scope["app"].state.guard
            scope["headers"] = guard.admit(scope["headers"], self.role)
        await super().handle(scope, receive, send)


class OpenRoute(GuardedRoute):
    """For everybody: health, metrics, the OpenAPI document."""

    role = None


class InferenceRoute(GuardedRoute):
    """For callers of models."""

    role = Role.INFERENCE


class AuditedRoute(GuardedRoute):
    """A route whose calls are recorded when they change something, or are refused.

    Attributes:
        quiet_methods: Those that change nothing.
    """

    quiet_methods: ClassVar[frozenset[str]] = frozenset({"GET", "HEAD", "OPTIONS"})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the route answer, and record how."""
        guard: Guard = scope["app"].state.guard
        who = guard.who([value for name, value in scope["headers"] if name == HEADER])
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await super().handle(scope, receive, noting)
        except Exception as error:
            status = status_of(error)[0]
            raise
        finally:
            if scope["method"] not in self.quiet_methods or status in _REFUSED_STATUSES:
                _note(scope, status, who=who)


class ManagementRoute(AuditedRoute):
    """For whoever decides what is served."""

    role = Role.MANAGEMENT


class RenewalRoute(AuditedRoute):
    """For whoever hands out keys; TorchServe renews them with GET."""

    role = Role.API
    quiet_methods = frozenset({"HEAD", "OPTIONS"})


def note_arguments(request: Request, arguments: Mapping[str, object]) -> None:
    """Tell the record of a call what it was given, where that is more than its query."""
    request.state.arguments = arguments


def note_outcome(request: Request, outcome: str) -> None:
    """Tell the record of a call how it ended, where its status does not."""
    request.state.outcome = outcome


def _note(scope: Scope, status: int, *, who: str) -> None:
    request = Request(scope)
    state = scope["state"]
    audit.note(
        f"{scope['method']} {scope['path']}",
        status,
        who=who,
        client=scope.get("client"),
        request_id=state["request_id"],
        listener=state["listener"],
        arguments=state.get("arguments", request.query_params),
        outcome=state.get("outcome", ""),
        certificate=scope.get("extensions", {}).get("tls", {}).get("client_cert_name", ""),
    )


def require_roles(routers: Iterable[APIRouter]) -> None:
    """Raises TypeError when a route declares no role."""
    for router in routers:
        for route in router.routes:
            if not isinstance(route, GuardedRoute):
                path = getattr(route, "path", route)
                raise TypeError(
                    f"the route {path} declares no role; give its router a `route_class` of "
                    "flambeau.api.auth"
                )


def token_router(tokens: Tokens) -> APIRouter:
    """`GET /token?type=management|inference`: a new key, told by the file only."""
    router = APIRouter(route_class=RenewalRoute)

    async def renew(request: Request) -> Response:
        """Replace a key; the new one is in the key file, never in the answer."""
        kind = request.query_params.get("type", "")
        if kind not in {Role.MANAGEMENT.value, Role.INFERENCE.value}:
            raise BadParameter(f"type is {kind!r}; use management or inference")
        await tokens.renew(Role(kind))
        return Response()

    router.add_api_route(
        "/token",
        renew,
        methods=["GET"],
        operation_id="token",
        openapi_extra={"parameters": PARAMETERS["token"]},
    )
    return router


def _shown_key(values: Sequence[bytes]) -> bytes:
    """The key of `Bearer KEY`; empty for anything else."""
    if len(values) != 1:
        return b""
    scheme, _, key = values[0].strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
