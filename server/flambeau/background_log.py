"""Logs written by a thread, so that a slow disk or an unread pipe never holds the event loop up."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence

_MAX_WAITING = 10_000  # records; at a few hundred bytes each, a few megabytes
_CLOSE_TIMEOUT_S = 2.0


class BackgroundHandler(logging.Handler):
    """Hands records to a thread of its own, which gives them to the handlers that write.

    Where the thread cannot keep up, records are dropped and counted; the count is logged as soon
    as there is room again.
    """

    def __init__(
        self, targets: Sequence[logging.Handler], *, max_waiting: int = _MAX_WAITING
    ) -> None:
        """Start the thread.

        Args:
            targets: Each gets every record that passes its own level and filters.
            max_waiting: Records that may wait; more are dropped.
        """
        super().__init__()
        # for the life of the handler
        self._targets = tuple(targets)
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(max_waiting)
        self._is_closed = False
        # since the last record that had room
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; never waits."""
        try:
            if self._num_dropped:
                self._waiting.put_nowait(_dropped(self._num_dropped))
                self._num_dropped = 0
            self._waiting.put_nowait(record)
        except queue.Full:
            self._num_dropped += 1

    def close(self) -> None:
        """Write what waits, for two seconds at most, and close the targets."""
        if self._is_closed:
            return  # logging closes every handler once more when the process ends
        self._is_closed = True
        deadline_at = time.monotonic() + _CLOSE_TIMEOUT_S
        with contextlib.suppress(queue.Full):  # when it hangs in a write, it dies with the process
            self._waiting.put(None, timeout=_CLOSE_TIMEOUT_S)
        self._thread.join(max(0.0, deadline_at - time.monotonic()))
        if not self._thread.is_alive():
            for target in self._targets:
                target.close()
        super().close()

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            for target in self._targets:
                if record.levelno >= target.level:
                    target.handle(record)


def _dropped(number: int) -> logging.LogRecord:
    return logging.LogRecord(
        name=__name__,
        level=logging.WARNING,
        pathname=__file__,
        lineno=0,
        msg="%d log records were dropped: they came faster than they could be written",
        args=(number,),
        exc_info=None,
    )
