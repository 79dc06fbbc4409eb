"""TorchServe's way of writing addresses: `http://HOST:PORT`, `https://HOST`, `unix:/PATH`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from flambeau.address import Address

_HTTP = re.compile(
    r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^:/?#\[\]]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE
)
_UNIX = re.compile(r"unix:(/.+)", re.IGNORECASE)
# what an address without a port means, by scheme and key
_PORTS: Mapping[tuple[str, str], int] = {
    ("http", "inference_address"): 80,
    ("http", "management_address"): 8081,
    ("http", "metrics_address"): 8082,
    ("https", "inference_address"): 443,
    ("https", "management_address"): 8444,
    ("https", "metrics_address"): 8445,
}


def parse_address(text: str, *, key: str) -> Address:
    """The listener's address that the property `key` gives.

    Raises:
        ValueError: It is not one; the text says what to give.
    """
    if match := _UNIX.fullmatch(text):
        return Address("", 0, path=Path(match[1]))
    match = _HTTP.fullmatch(text)
    if match is None:
        raise ValueError("give http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    scheme, host = match[1].lower(), match[2].strip("[]")
    port = _PORTS[scheme, key] if match[3] is None else int(match[3])
    if port > 65535:
        raise ValueError("give a port from 0 to 65535")
    return Address(host, port, tls=scheme == "https")
