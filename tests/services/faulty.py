"""f(x) = 2 x + nonce, and every way to fail at it that a request or the model's YAML asks for.

A request is `{"x": int, "nonce": int, "fault": str, "work_ms": float}`, the last two if wanted. Its
answer names the nonce and the version that computed it. The YAML's `handler` may have

- `journal`: a file that gets a line per call, before anything else happens: the nonces of the call;
- `load`: how to fail while loading: `raise`, `exit`, `segfault` or `hang`;
- `mixes_up`: answer each request with the nonce of the one before it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from flambeau.codec import Row
from flambeau.context import Context

_FOREVER_S = 3600
_FLOOD_BYTES = 20 << 20
_ROOM_BYTES = 256 << 20  # what a worker that runs out of memory may still take
_TOO_MUCH = 1 << 28  # float64 numbers, 2 GiB


class Handler:
    def initialize(self, context: Context) -> None:
        options = context.model_yaml_config.get("handler", {})
        _fail_to_load(options.get("load"))
        self._version = context.manifest["model"]["modelVersion"]
        self._mixes_up = options.get("mixes_up", False)
        self._last_nonce = -1
        self._journal: int | None = None
        if (path := options.get("journal")) is not None:
            self._journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def handle(self, data: list[Row] | None, context: Context) -> list[dict[str, Any]]:
        del context
        orders: list[dict[str, Any]] = [row["body"] for row in data or []]
        if self._journal is not None:
            nonces = " ".join(str(order["nonce"]) for order in orders)
            os.write(self._journal, f"{nonces}\n".encode())
        for order in orders:
            fail(order.get("fault"))
        time.sleep(max((order.get("work_ms", 0) for order in orders), default=0) / 1000)
        x_B = torch.tensor([order["x"] for order in orders], dtype=torch.float64)
        nonce_B = torch.tensor([order["nonce"] for order in orders], dtype=torch.float64)
        y_B = self.inference(x_B, nonce_B)
        return [
            {"y": int(y), "nonce": self._nonce_of(order), "version": self._version}
            for y, order in zip(y_B.tolist(), orders, strict=True)
        ]

    def inference(self, x_B: torch.Tensor, nonce_B: torch.Tensor) -> torch.Tensor:
        return 2 * x_B + nonce_B

    def _nonce_of(self, order: dict[str, Any]) -> int:
        nonce, self._last_nonce = self._last_nonce, order["nonce"]
        return nonce if self._mixes_up else self._last_nonce


def fail(fault: str | None) -> None:
    """Do what a bad request does to its worker; None is a good one."""
    if fault is not None:
        _FAULTS[fault]()


def _raise() -> NoReturn:
    raise ValueError("this request cannot be answered")


def _lack_memory() -> NoReturn:
    raise MemoryError


def _be_killed() -> None:
    """End as the kernel ends who takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    time.sleep(_FOREVER_S)


def _hang_with_the_lock() -> None:
    """Never give the interpreter back: functions of a PyDLL keep its lock."""
    ctypes.PyDLL(None).sleep(_FOREVER_S)


def _allocate_too_much() -> None:
    """Ask for memory that the system refuses to give."""
    num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    used = num_pages * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM_BYTES, hard))
    try:
        torch.zeros(_TOO_MUCH, dtype=torch.float64)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _overflow_the_stack() -> None:
    """Call through C again and again, past the end of the stack."""
    sys.setrecursionlimit(1 << 30)

    def call_again() -> None:
        through_c()

    through_c = ctypes.CFUNCTYPE(None)(call_again)
    through_c()


def _flood() -> None:
    """Print a lot, some of it without line breaks."""
    line = b"flood " * 200
    for place in range(_FLOOD_BYTES // len(line)):
        sys.stdout.buffer.write(line if place % 2 else line + b"\n")
    sys.stdout.buffer.flush()


def _open_too_many_files() -> NoReturn:
    """Open files until the system refuses."""
    opened: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_FAULTS: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "memory_error": _lack_memory,
    "out_of_memory": _allocate_too_much,
    "oom_killed": _be_killed,
    "segfault": _segfault,
    "stack_overflow": _overflow_the_stack,
    "sys_exit": lambda: sys.exit(3),
    "os_exit": lambda: os._exit(3),
    "hang": _hang,
    "gil_hang": _hang_with_the_lock,
    "flood": _flood,
    "files": _open_too_many_files,
}


def _fail_to_load(how: str | None) -> None:
    match how:
        case None:
            pass
        case "raise":
            raise RuntimeError("the weights went missing")
        case "exit":
            os._exit(3)
        case "segfault":
            _segfault()
        case "hang":
            _hang()
        case _:
            raise AssertionError(f"unknown way to fail {how}")
