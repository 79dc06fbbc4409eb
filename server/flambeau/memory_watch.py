"""A limit on the memory of one worker and what it has started, kept from outside.

A limit on address space would do it from inside, but CUDA reserves far more of that than it uses.
Resident memory is cheap to read and counts what is shared with other workers in full; only where
that is over the limit, each process's own share is asked for.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from flambeau.errors import OutOfResources
from flambeau.process import WorkerProcess

_LOOK_S: Final = 0.2  # between two looks
_GRACE_S: Final = 0.5  # between asking it to end and ending it: it may go on allocating
_PROC: Final = Path("/proc")


async def watch_memory(process: WorkerProcess, *, max_bytes: int) -> None:
    """End the worker once it holds more; returns when it has ended, for whatever reason."""
    while not await process.has_exited(within_s=_LOOK_S):
        used = await asyncio.to_thread(memory_bytes, process.pid, more_than=max_bytes)
        if used > max_bytes:
            error = OutOfResources(
                f"the worker held {used} bytes of memory, more than maxMemory {max_bytes}; it was "
                "restarted"
            )
            await process.end_for(error, grace_s=_GRACE_S)


def memory_bytes(pid: int, *, more_than: int) -> int:
    """What a process and those it started hold; exact where it is more than `more_than`."""
    pids = _family(pid)
    resident = sum(map(_resident_bytes, pids))
    return resident if resident <= more_than else sum(map(_own_bytes, pids))


def _family(pid: int) -> list[int]:
    """The process and all below it that still have their parents."""
    found = [pid]
    for each in found:
        for task in (_PROC / str(each) / "task").glob("*"):
            found += map(int, _read(task / "children").split())
    return found


def _resident_bytes(pid: int) -> int:
    fields = _read(_PROC / str(pid) / "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _own_bytes(pid: int) -> int:
    """With its part of what it shares with others (PSS); all of it where that is not told."""
    for line in _read(_PROC / str(pid) / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident_bytes(pid)


def _read(path: Path) -> str:
    """The file's text; empty when the process has gone."""
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
