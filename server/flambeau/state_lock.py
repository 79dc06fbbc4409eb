"""One server per state file: a lock that ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from flambeau.errors import ConfigError

_PATIENCE_S: Final = 3.0  # for a server that was killed to be gone
_POLL_S: Final = 0.02


@contextmanager
def state_lock(
    state_file: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Generator[None]:
    """Keep other servers from the state file during the block; blocks for seconds at most.

    Raises:
        ConfigError: Another server has it.
        OSError: The lock's file cannot be made.
    """
    path = state_file.with_name(f"{state_file.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_up_at = clock() + _PATIENCE_S
        while not _is_ours(number):
            if clock() > give_up_at:
                raise ConfigError(
                    f"state_file {state_file} is in use by the server with process id "
                    f"{_owner(number)}; stop that one, or name another file for this one"
                )
            pause(_POLL_S)
        os.truncate(number, 0)
        os.pwrite(number, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(number)


def _is_ours(number: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _owner(number: int) -> str:
    return os.pread(number, 20, 0).decode(errors="replace") or "unknown"
