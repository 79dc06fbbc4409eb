"""`allowed_hosts`: which addresses archives may be fetched from, host by host and letter by letter.

An address is taken apart once, by one strict pattern, and nothing in it is repaired, so there is no
second reading of it that could differ: a host is allowed when it is spelt as in the settings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flambeau.errors import ConfigError

_PORTS = {"https": 443, "http": 80}
# RFC 3986's characters of a path and a query; no user, no fragment, no backslash, no blank
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>/(?:[A-Za-z0-9._~!$&'()*+,;=:@/\-]|%[0-9A-Fa-f]{2})*"
    r"(?:\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\-]|%[0-9A-Fa-f]{2})*)?)"
)
_ENTRY = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[^/:@\s]+|\[[0-9A-Fa-f:.]+\])(?::(\d+))?/?"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an address leads, as it is spelt."""

    scheme: str
    host: str
    port: int


class AllowedHosts:
    """The hosts of the settings."""

    def __init__(self, hosts: Sequence[str] = (), *, private: Sequence[str] = ()) -> None:
        """Read the settings.

        Args:
            hosts: `HOST`, `HOST:PORT`, or with `http://` in front where there is no TLS.
            private: Hosts among them whose addresses need not be public.

        Raises:
            ConfigError: An entry is no host, or one of `private` is not among `hosts`.
        """
        self._origins = {_origin_of(entry) for entry in hosts}
        self._private = {entry.lower() for entry in private}
        unknown = self._private - {origin.host for origin in self._origins}
        if unknown:
            raise ConfigError(
                f"private_hosts has {', '.join(sorted(unknown))}, which allowed_hosts has not; "
                "list the bare host in the one and HOST or HOST:PORT in the other"
            )

    def origin(self, url: str) -> Origin | None:
        """Where an allowed address leads; None when it is not allowed."""
        match = _URL.fullmatch(url)
        if match is None:
            return None
        scheme, port = match["scheme"], int(match["port"] or _PORTS[match["scheme"]])
        origin = Origin(scheme, match["host"].lower(), port)
        return origin if origin in self._origins else None

    def may_be_private(self, origin: Origin) -> bool:
        """Whether the host may be on a network that is not the public internet."""
        return origin.host in self._private


def _origin_of(entry: str) -> Origin:
    match = _ENTRY.fullmatch(entry)
    if match is None or not entry.isascii() or "*" in entry:
        raise ConfigError(
            f"allowed_hosts has {entry!r}; give HOST or HOST:PORT, e.g. models.example.com, or "
            "http://HOST:PORT for one without TLS"
        )
    scheme = match["scheme"] or "https"
    return Origin(scheme, match["host"].lower(), int(match[3] or _PORTS[scheme]))
