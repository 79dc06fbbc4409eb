"""What the kernel knows of sockets and does with them, and event loops do not tell."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
import sys
import termios
from asyncio import BaseTransport
from typing import Final

_TCP_CLOSE: Final = 7  # enum in Linux's include/net/tcp_states.h
_SO_ATTACH_FILTER: Final = 26  # <asm-generic/socket.h>
# <linux/filter.h>: code, jump if true, jump if false, operand; byte 13 of a segment has its flags
_NO_SYN: Final = (
    (0x30, 0, 0, 13),  # load that byte
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # then drop the segment,
    (0x06, 0, 0, 0xFFFF_FFFF),  # else take all of it
)


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


def let_nobody_in(listener: socket.socket) -> None:
    """Answer nobody who wants to connect from now on, where the kernel can do that.

    Those who have begun to can be accepted, and once they are, closing the socket resets none.
    Others ask again after a second, and are refused by then.
    """
    if not sys.platform.startswith("linux") or listener.family == socket.AF_UNIX:
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _NO_SYN))
    prepared = struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
    with contextlib.suppress(OSError):  # a kernel or sandbox without it
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, prepared)
