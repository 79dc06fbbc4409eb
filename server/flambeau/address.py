"""Where a listener is bound: a TCP port, with TLS or without, or a Unix socket."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is bound.

    Attributes:
        host: A name or an IP address; empty for a Unix socket.
        port: 0 lets the kernel choose.
        tls: Whether clients speak TLS.
        path: The file of a Unix socket; None for TCP.
    """

    host: str
    port: int
    tls: bool = False
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`, `[IPv6]:PORT` or `:PORT`, or `unix:/PATH`.

        `https://` in front of a host switches TLS on; `http://` may be there, too.

        Raises:
            ValueError: It is none of these; the text says what to give.
        """
        scheme, separator, rest = text.partition(":")
        if separator and scheme.lower() == "unix":
            if not rest.startswith("/"):
                raise ValueError("give a Unix socket's whole path: unix:/PATH")
            return cls("", 0, path=Path(rest))
        tls = scheme.lower() == "https" and rest.startswith("//")
        if tls or (scheme.lower() == "http" and rest.startswith("//")):
            text = rest.removeprefix("//").rstrip("/")
        host, separator, port = text.rpartition(":")
        if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError("give HOST:PORT with a port from 0 to 65535")
        return cls(host.strip("[]") or "127.0.0.1", int(port), tls)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path is not None:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`."""
        return str(self) if self.tls or self.path is not None else f"http://{self}"

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https://' if self.tls else ''}{host}:{self.port}"
