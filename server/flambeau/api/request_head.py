"""What HTTP and our limits allow of a request before its body; all listeners and lanes ask here.

The parser has refused most of what is malformed: bare CR or LF, folded lines, NUL, two lengths, a
length beside chunks. Here is what it lets pass and what it has no limit for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from flambeau.errors import (
    ExpectationFailed,
    HeadTooLarge,
    MalformedRequest,
    TargetTooLong,
    UnknownHost,
    UnsupportedContentType,
)

Headers: TypeAlias = list[tuple[bytes, bytes]]

MAX_TARGET_BYTES: Final = 8 << 10  # nginx's and Apache's; the line that has it is 15 bytes longer
MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 100  # Apache's
MAX_CHUNKS: Final = 65_536
MAX_CHUNK_EXTRA_BYTES: Final = 64  # per chunk, for its size and extensions, which nobody reads

_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")  # RFC 9110, section 7.2
_HOST_NAME: Final = re.compile(rb"\[(?P<six>[^\]]*)\](:\d*)?|(?P<name>[^:]*)(:\d*)?")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_CODINGS: Final = {
    *(b"gzip", b"x-gzip", b"deflate", b"br", b"zstd", b"compress", b"x-compress", b"identity")
}
"""Of a body, as IANA registers them. Handlers get bodies as they came, as in TorchServe: nothing is
inflated here."""


def check_head(target: bytes, headers: Headers, *, http_version: str) -> None:
    """Let a request pass, or raise.

    Args:
        target: As it stands in the request line.
        headers: Names in lower case.
        http_version: E.g. `1.1`.

    Raises:
        MalformedRequest: Two readers of it might understand two requests.
        TargetTooLong, HeadTooLarge: It is over a limit.
        UnsupportedContentType: Its body is coded in a way that nobody knows.
        ExpectationFailed: It expects something else than `100-continue`.
    """
    if http_version not in {"1.1", "1.0"}:
        raise MalformedRequest(f"HTTP {http_version} is not spoken here; use HTTP/1.1")
    _check_size(target, headers)
    _check_target(target)
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    _check_host(values.get(b"host", []), http_version=http_version)
    _check_framing(values, http_version=http_version)
    _check_codings(values.get(b"content-encoding", []))
    expected = values.get(b"expect", [])
    if any(value.lower() != b"100-continue" for value in expected):
        raise ExpectationFailed("expect only `100-continue`, or nothing")


def check_known_host(headers: Headers, names: Collection[str]) -> None:
    """Refuse who calls the server by a name that is not its own.

    A page may have its name lead here: to the browser, it is then a page of this server.

    Args:
        headers: Of a request that `check_head` has passed.
        names: Its names, in lower case, besides localhost and numbers; none takes any name.

    Raises:
        UnknownHost: It is called by another.
    """
    host = next((value for name, value in headers if name == b"host"), b"") if names else b""
    found = _HOST_NAME.fullmatch(host)
    called = ((found["six"] or found["name"]) if found else host).decode("latin-1").lower()
    if called and called not in {"localhost", *names} and not _is_number(called):
        raise UnknownHost(f"this server is not called {called[:200]}; add its names to host_names")


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def expects_continue(headers: Headers, *, http_version: str) -> bool:
    """Whether the client waits with the body until it is told to send it."""
    return http_version == "1.1" and any(name == b"expect" for name, _ in headers)


def _check_size(target: bytes, headers: Headers) -> None:
    if len(target) > MAX_TARGET_BYTES:
        raise TargetTooLong(
            f"the address has {len(target)} bytes, over {MAX_TARGET_BYTES}; send data in the body"
        )
    if len(headers) > MAX_HEADERS:
        raise HeadTooLarge(f"the request has {len(headers)} headers, over {MAX_HEADERS}")
    # each line has a colon, a space and its end, too
    size = len(target) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > MAX_HEAD_BYTES:
        raise head_too_large()


def head_too_large() -> HeadTooLarge:
    """The refusal of headers that take too much, together or with what trails the body."""
    return HeadTooLarge(f"the headers have more than {MAX_HEAD_BYTES} bytes; send fewer")


def _check_target(target: bytes) -> None:
    path = target.partition(b"?")[0]
    if b"#" in target:
        raise MalformedRequest("the address has a `#`, which stays with the client")
    if b"%" in path and _CONTROL.search(unquote_to_bytes(path)) is not None:
        raise MalformedRequest("the path has a control character in it")


def _check_host(hosts: list[bytes], *, http_version: str) -> None:
    """Everybody who reads the request must take it to be for the same host."""
    if len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None:
        return
    if hosts or http_version != "1.0":
        raise MalformedRequest("send one Host header with a host's name")


def _check_framing(values: dict[bytes, list[bytes]], *, http_version: str) -> None:
    """Where the body ends must be beyond doubt."""
    codings = values.get(b"transfer-encoding", [])
    if codings and (http_version != "1.1" or [each.lower() for each in codings] != [b"chunked"]):
        raise MalformedRequest("use Transfer-Encoding only as `chunked`, and in HTTP/1.1")
    if len(values.get(b"content-length", [])) + len(codings) > 1:
        raise MalformedRequest("send one Content-Length, or Transfer-Encoding without any")


def _check_codings(values: Iterable[bytes]) -> None:
    codings = [each.strip().lower() for value in values for each in value.split(b",")]
    if len(codings) > 1 or not set(codings) <= _CODINGS:
        text = b", ".join(codings).decode("latin-1")
        raise UnsupportedContentType(
            f"Content-Encoding is {text!r}; send the body as it is, or coded once, e.g. as gzip"
        )
