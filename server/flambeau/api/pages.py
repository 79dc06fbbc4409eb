"""What pages in browsers may change: nothing, unless their origin is allowed.

Any page that somebody looks at can make the browser post to this machine, also to addresses that
only this machine reaches, and a page can have its own name lead here. Browsers say with each such
request where the page comes from; other clients say nothing of the kind.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request

from flambeau.errors import ForeignPage

_HARMLESS: Final = {"GET", "HEAD", "OPTIONS"}


def page_check(allowed_origin: str) -> Callable[[Request], None]:
    """A dependency of routes that raises ForeignPage for what a strange page wants changed.

    Args:
        allowed_origin: Whose pages may, `*` for all; empty for those only that come from the
            address which the request is for, given as a number or `localhost`.
    """

    def check(request: Request) -> None:
        origin = request.headers.get("origin")
        if request.method in _HARMLESS or origin is None or allowed_origin in {"*", origin}:
            return
        if not _is_own(origin, host=request.headers.get("host", "")):
            raise ForeignPage(
                f"a page of {origin[:200]} must not change what is served; set "
                "cors_allowed_origin to its origin if it may"
            )

    return check


def _is_own(origin: str, *, host: str) -> bool:
    """Whether a page comes from here, and by an address that nobody else can give themselves."""
    try:
        parts = urlsplit(origin)
        name = parts.hostname or ""
    except ValueError:
        return False
    return parts.netloc == host and (name == "localhost" or _is_number(name))


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
