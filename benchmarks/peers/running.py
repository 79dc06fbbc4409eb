"""A server under measurement: all its processes, still while others are measured, and ended.

Its processes are those that descend from the first, and those whose environment carries its mark:
some servers detach processes, others start them with another environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psutil

from benchmarks.peers.peer import NUM_THREADS

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from benchmarks.peers.peer import Launch

MARK: Final = "FLAMBEAU_BENCHMARKED"
STOP_TIMEOUT_S: Final = 3.0  # nobody waits for an answer any more


class PeerFailedError(RuntimeError):
    """A server ended, did not become ready, or answers wrongly."""


class RunningPeer:
    """One server and its processes."""

    def __init__(self, launch: Launch, *, directory: Path) -> None:
        self.launch = launch
        self.log_path = directory / "server.log"
        self._mark = uuid.uuid4().hex
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(NUM_THREADS))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                launch.command,
                cwd=directory,
                env={**os.environ, **threads, **launch.environment, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def processes(self) -> list[psutil.Process]:
        """All of them, as they are at the moment."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark:
                    found[process.pid] = process
                    found |= {child.pid: child for child in process.children(recursive=True)}
        return list(found.values())

    def freeze(self) -> None:
        """Let nothing of it run."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run on."""
        self._signal(signal.SIGCONT)

    def cpu_s(self) -> float:
        """CPU time of its processes so far, user and system."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def workers_pss_bytes(self) -> int:
        """Memory of all its processes but the first, shared pages in proportion."""
        total = 0
        for process in self.processes():
            if process.pid != self.process.pid:
                with contextlib.suppress(psutil.Error):
                    total += int(process.memory_full_info().pss)
        return total

    def stop(self) -> None:
        """End it: ask first, then kill all that is left of it."""
        self.thaw()
        if not self.has_ended:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-25:])

    def _signal(self, number: signal.Signals) -> None:
        """Send it to all, again until nobody is new: a process may start others meanwhile."""
        reached: set[int] = set()
        while new := [each for each in self.processes() if each.pid not in reached]:
            for process in new:
                reached.add(process.pid)
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)


@contextmanager
def running(launch: Launch, *, directory: Path) -> Generator[RunningPeer]:
    """The server inside the block; nothing of it after."""
    server = RunningPeer(launch, directory=directory)
    try:
        yield server
    finally:
        server.stop()


def wait_until(server: RunningPeer, *, said: str, give_up_at: float, poll_s: float) -> None:
    """Wait a little for a server that is starting, and last answered so.

    Raises:
        PeerFailedError: It ended, or it is too late.
    """
    if server.has_ended:
        raise PeerFailedError(
            f"ended with {server.process.returncode}; its last lines:\n{server.log_tail()}"
        )
    if time.monotonic() > give_up_at:
        raise PeerFailedError(
            f"not ready in time, it answers {said}; its last lines:\n{server.log_tail()}"
        )
    time.sleep(poll_s)
