"""What the kernel knows of a connection and an event loop's transport does not tell."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from asyncio import BaseTransport
from typing import Final

_TCP_CLOSE: Final = 7  # enum in Linux's include/net/tcp_states.h


def is_reset(transport: BaseTransport) -> bool:
    """Whether the other end has answered something with a reset; False where nobody can say."""
    found = transport.get_extra_info("socket")
    if found is None or not sys.platform.startswith("linux"):
        return False
    try:
        # the first byte of `struct tcp_info` is the state
        state: bytes = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return False  # a Unix socket
    return state[0] == _TCP_CLOSE


def unsent_bytes(transport: BaseTransport) -> int:
    """What the other end's kernel has not got yet; 0 where nobody can say."""
    found = transport.get_extra_info("socket")
    if found is None or not sys.platform.startswith("linux"):
        return 0
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)
