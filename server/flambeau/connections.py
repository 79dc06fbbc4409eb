"""How many connections may be open: fewer than the process may have files."""

from __future__ import annotations

import logging
import resource
import time
from dataclasses import dataclass
from typing import Final

from flambeau.errors import TooManyConnections

_log = logging.getLogger(__name__)

_OTHER_FILES: Final = 64  # listeners, logs, gRPC, archives being read; about 45 when idle
_SHARE_OF_OTHERS: Final = 16
"""Listeners beside that of predictions get one for so many of its connections, at least
`_FEWEST`, so that operators get in when clients take all they can."""
_FEWEST: Final = 8
_MOST: Final = 100_000  # where the limit on files is none
_SECONDS_BETWEEN_WARNINGS: Final = 10.0


@dataclass(slots=True)
class Connections:
    """The connections of one listener.

    Attributes:
        max_open: How many there may be.
        num_open: How many there are.
        are_draining: Whether the next request of each is its last.
    """

    max_open: int
    num_open: int = 0
    are_draining: bool = False
    _warned_at: float = float("-inf")

    def enter(self) -> None:
        """Count another one.

        Raises:
            TooManyConnections: There are as many as there may be.
        """
        if self.num_open < self.max_open:
            self.num_open += 1
            return
        now = time.monotonic()
        if now - self._warned_at >= _SECONDS_BETWEEN_WARNINGS:
            self._warned_at = now
            _log.warning(
                "refusing connections: %d are open, as many as max_connections allows",
                self.num_open,
            )
        raise TooManyConnections(f"{self.num_open} connections are open; try again later")

    def leave(self) -> None:
        """One that entered is gone."""
        self.num_open -= 1


def max_connections(wanted: int, *, is_first: bool) -> int:
    """How many connections a listener takes.

    Args:
        wanted: How many that of predictions should take; 0 derives it from the limit on open files
            (`ulimit -n`), of which a part is for workers and everything else.
        is_first: Whether it is that of predictions.
    """
    count = wanted or _derived(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return count if is_first else max(_FEWEST, count // _SHARE_OF_OTHERS)


def _derived(max_files: int) -> int:
    if max_files == resource.RLIM_INFINITY:
        return _MOST
    return min(_MOST, max(_FEWEST, (max_files - _OTHER_FILES) * 3 // 4))
