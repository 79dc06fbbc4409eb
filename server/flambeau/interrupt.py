"""Ctrl-C, or SIGTERM, as an exception that cannot get lost.

Extension modules may swallow any exception that is raised in their callbacks or while they are
imported, torch, NumPy and optuna among them. So it is remembered as well, and raised again where
the work looks for it.
"""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Raises KeyboardInterrupt on either signal while it is entered.

    A context manager; outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        # for the life of the command
        self._stack = ExitStack()
        self._has_come = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.signal(number, self._come)
                self._stack.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raise it again if it has come.

        Raises:
            KeyboardInterrupt: It has.
        """
        if self._has_come:
            raise KeyboardInterrupt

    def _come(self, _number: int, _frame: FrameType | None) -> NoReturn:
        self._has_come = True
        raise KeyboardInterrupt
