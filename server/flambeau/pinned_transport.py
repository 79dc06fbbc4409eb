"""HTTP to an address that was looked at: each host is resolved once, and that address is connected.

A name may mean a harmless address when it is checked and another one when it is used; here there is
no second time. What addresses may be is decided by whoever opens the transport.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeAlias, cast

import httpcore
import httpx

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
"""The addresses of a host, best first; raises OSError or UnicodeError when there are none."""
CheckAddress: TypeAlias = Callable[[IPAddress], None]
"""Raises ValueError for an address that must not be connected to."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291, 2.5.5.1; deprecated, and still routed here
_METADATA = {  # where clouds answer beside the link-local addresses
    ipaddress.ip_address("fd00:ec2::254"),  # Amazon
    ipaddress.ip_address("100.100.100.200"),  # Alibaba
}
_ERRORS = {
    httpcore.TimeoutException: httpx.TimeoutException,
    httpcore.NetworkError: httpx.NetworkError,
    httpcore.ProtocolError: httpx.ProtocolError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}


def resolve(host: str, port: int) -> list[str]:
    """Ask the system."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in infos]


def check_public(address: IPAddress) -> None:
    """Refuse all that is not on the public internet.

    Raises:
        ValueError: Loopback, private, link-local, multicast, reserved or shared.
    """
    if not address.is_global or address.is_multicast:
        raise ValueError(
            f"{address} is not a public address; a host on a private network must be among "
            "private_hosts"
        )


def check_no_metadata(address: IPAddress) -> None:
    """Refuse where clouds keep their machines' credentials.

    Raises:
        ValueError: It is such an address.
    """
    if address.is_link_local or address in _METADATA:
        raise ValueError(f"{address} is an address of the machine's own metadata service")


def addresses_in(text: str) -> list[IPAddress]:
    """An address and, if it is IPv6, those of IPv4 that it carries and may be delivered to."""
    address = ipaddress.ip_address(text.partition("%")[0])
    found: list[IPAddress] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        found += filter(None, (address.ipv4_mapped, address.sixtofour))
        found += address.teredo or ()
        if any(address in network for network in (_NAT64, _NAT64_LOCAL)) or (
            address in _COMPATIBLE and int(address) > 1
        ):
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    # what is only a way of writing an IPv4 address is no address of its own
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return found[1:] if mapped else found


class PinnedTransport(httpx.BaseTransport):
    """Sends requests straight to addresses that `check` has seen; no proxy, HTTP/1.1."""

    def __init__(self, *, check: CheckAddress, resolve: Resolve = resolve) -> None:
        """Open a transport.

        Args:
            check: Asked about each address of a host before any is connected to.
            resolve: Finds the addresses.
        """
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),  # SSL_CERT_FILE may name a company's own
            network_backend=_PinnedBackend(check, resolve),
            retries=0,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            ValueError: An address of the host is refused.
            httpx.TransportError: Nobody answers as HTTP asks.
        """
        with _errors_of_httpx():
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=cast("Iterable[bytes]", request.stream),
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _errors_of_httpx():
            yield from cast("Iterable[bytes]", self._response.stream)

    def close(self) -> None:
        self._response.close()


class _PinnedBackend(httpcore.NetworkBackend):
    """Connects to the address that was checked, and to no name."""

    def __init__(self, check: CheckAddress, resolve: Resolve) -> None:
        self._check = check
        self._resolve = resolve
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = list(dict.fromkeys(self._resolve(host, port)))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        for text in found:
            for address in addresses_in(text):
                self._check(address)
        refused: Exception = httpcore.ConnectError(f"{host} has no address")
        for text in found:
            try:
                return self._sockets.connect_tcp(text, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:  # noqa: PERF203  # then the next
                refused = error
        raise refused


@contextlib.contextmanager
def _errors_of_httpx() -> Generator[None]:
    try:
        yield
    except Exception as error:
        for theirs, ours in _ERRORS.items():
            if isinstance(error, theirs):
                raise ours(str(error)) from error
        raise
