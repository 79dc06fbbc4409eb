"""Who may call what: each route declares a role, and asks for that role's key before all else.

    router = APIRouter(route_class=ManagementRoute)

The role belongs to the route that matched, never to the text of the address. `create_app` refuses
routers with routes that declare nothing. A key goes no further than this file: the header is taken
off the request before a handler or a log sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from flambeau.api.openapi import PARAMETERS
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
_REFUSED = "Token {} failed. Token either incorrect, expired, or not provided correctly"


class Guard:
    """Lets callers in who show the right key; without keys, everybody."""

    def __init__(self, keys: KeyRing | None, *, status_400: bool = False) -> None:
        """Guard a server.

        Args:
            keys: What callers have to show; None asks for nothing.
            status_400: Answer 400 to all that is wrong with a token, as TorchServe does.
        """
        self._keys = keys
        self._status_400 = status_400

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
            raise self._refusal(verdict, role)

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


class ManagementRoute(GuardedRoute):
    """For whoever decides what is served."""

    role = Role.MANAGEMENT


class RenewalRoute(GuardedRoute):
    """For whoever hands out keys."""

    role = Role.API


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
