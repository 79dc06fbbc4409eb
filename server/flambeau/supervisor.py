"""A small parent that starts the server's process, and starts it again when it crashes.

It has imported nothing but the settings when it forks the front, and does nothing afterwards but
wait: for the front's end, and for signals, which it passes on. It holds the listening sockets, so
that the ports stay open in between. When it is killed itself, the kernel kills the front, and with
that all workers: a server that nobody watches would keep the ports from the next one.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from flambeau.binding import Bound

_log = logging.getLogger(__name__)

GAVE_UP: Final = 70  # EX_SOFTWARE of <sysexits.h>

_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_WATCHED: Final = (*_STOPPING, signal.SIGCHLD)
_CONFIG_ERROR: Final = 2
_MAX_CRASHES: Final = 5
_WINDOW_S: Final = 60.0
_MAX_PAUSE_S: Final = 2.0
_POLL_S: Final = 1.0  # a signal tells of each end; this is for one that got lost


class Run(Protocol):
    """The server; returns its exit code."""

    def __call__(self, *, is_restart: bool) -> int: ...


@dataclass(slots=True)
class CrashLoop:
    """Decides what follows a crash: another start after a while, or the end.

    Attributes:
        max_crashes: So many within the window end it.
        window_s: Seconds.
    """

    max_crashes: int = _MAX_CRASHES
    window_s: float = _WINDOW_S
    _crashed_at: deque[float] = field(default_factory=deque[float])

    def pause_s(self, *, now: float) -> float | None:
        """Seconds until the next start, 0.1, 0.2, 0.4 ... up to 2; None to give up."""
        self._crashed_at.append(now)
        while now - self._crashed_at[0] > self.window_s:
            self._crashed_at.popleft()
        if len(self._crashed_at) >= self.max_crashes:
            return None
        return float(min(_MAX_PAUSE_S, 0.1 * 2 ** (len(self._crashed_at) - 1)))


def supervise(run: Run, sockets: Sequence[Bound]) -> int:
    """Run the server in a child process, for as long as it takes; Linux only.

    Returns in both processes: in the child with what `run` returns, in the parent with the exit
    code that is the command's.

    Args:
        run: The server; told whether it is started again after a crash.
        sockets: What it listens on; the parent closes its own when the server is to stop.
    """
    return _Supervisor(sockets).run(run)


class _Supervisor:
    """The parent's side."""

    def __init__(self, sockets: Sequence[Bound]) -> None:
        # for the life of the command
        self._sockets = sockets
        self._crashes = CrashLoop()
        self._is_stopping = False
        # for the life of one front
        self._front = 0

    def run(self, run: Run) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        is_restart = False
        while True:
            parent = os.getpid()
            self._front = os.fork()
            if self._front == 0:
                _become_front(parent, before)
                return run(is_restart=is_restart)
            code = self._wait_ended()
            if code == 0 or (code == _CONFIG_ERROR and not is_restart):
                return code
            if self._is_stopping:
                # killed by the signal itself, before it could listen for it: nothing was accepted
                return 0 if -code in _STOPPING else _shell_code(code)
            pause_s = self._crashes.pause_s(now=time.monotonic())
            if pause_s is None:
                _log.critical(
                    "the server has crashed %d times within %g s, the last time by %s; giving up",
                    *(self._crashes.max_crashes, self._crashes.window_s, describe_end(code)),
                )
                return GAVE_UP
            _log.error(
                "the server has ended: %s; it is started again in %.1f s",
                *(describe_end(code), pause_s),
            )
            if self._pause(pause_s):
                return _shell_code(code)
            is_restart = True

    def _wait_ended(self) -> int:
        """Pass signals on until the front ends; returns its exit code, or minus a signal."""
        while True:
            while (ended := _reap()) is not None:
                if ended[0] == self._front:
                    return ended[1]
            received = signal.sigtimedwait(_WATCHED, _POLL_S)
            if received is not None and received.si_signo in _STOPPING:
                self._stop()
                os.kill(self._front, received.si_signo)

    def _pause(self, seconds: float) -> bool:
        """Wait before the next start; True when a signal says that there is to be none."""
        received = signal.sigtimedwait(_STOPPING, seconds)
        return received is not None

    def _stop(self) -> None:
        """Let the front alone decide when the ports close."""
        self._is_stopping = True
        for bound in self._sockets:
            bound.socket.close()


def describe_end(code: int) -> str:
    """`exit code 3`, or `SIGSEGV`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _become_front(parent: int, mask: set[signal.Signals] | set[int]) -> None:
    """In the child: end with the parent, and leave the terminal's signals to it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it has ended before the line above
    os.setpgid(0, 0)  # else Ctrl-C comes twice, from the terminal and from the parent
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _reap() -> tuple[int, int] | None:
    """A child that has ended, with its code; as process 1, others' children are ours, too."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def _shell_code(code: int) -> int:
    """An exit code for what ended by a signal, as shells count it."""
    return 128 - code if code < 0 else code
