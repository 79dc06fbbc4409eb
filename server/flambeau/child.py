"""A child process of the front: its end, its output, and the socket it shares with the front.

Most are forked from a template and adopted then (`templates.py`); the others are fresh
interpreters, started here.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from flambeau.errors import WorkerDied
from flambeau.messages import LoadModel

_PR_SET_CHILD_SUBREAPER: Final = 36  # <linux/prctl.h>
_UNKNOWN_CODE: Final = 255  # of a process that somebody else has waited for; asyncio says the same


class Child(Protocol):
    """What the front needs of a process; `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def stdout(self) -> asyncio.StreamReader | None: ...

    @property
    def stderr(self) -> asyncio.StreamReader | None: ...

    async def wait(self) -> int:
        """Its exit code, or minus the number of the signal that ended it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SharedModel:
    """A model that is to be loaded once for all workers that name this very object.

    Attributes:
        load: What they load.
        only_builtin: Share it only if its handler is one of Flambeau's own.
        timeout_s: Seconds its loading may take.
    """

    load: LoadModel
    only_builtin: bool
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What a worker process is started with.

    Attributes:
        command: The interpreter, and the module it runs.
        environment: Its whole environment.
        shared: The model to share with other workers of it; None for a model of its own.
    """

    command: tuple[Path, str]
    environment: Mapping[str, str]
    shared: SharedModel | None = None


class StartWorker(Protocol):
    """Starts a worker process; returns it with the front's end of the socket between them.

    Raises:
        WorkerDied: The operating system cannot start a process now.
    """

    async def __call__(self, launch: Launch, /) -> tuple[Child, socket.socket]: ...


async def start_fresh(
    launch: Launch,
    *,
    flags: Sequence[str] = (),
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> tuple[Child, socket.socket]:
    """A new interpreter in a session of its own.

    Args:
        launch: What to start.
        flags: More words for its command line.
        kind: The socket's kind.

    Raises:
        WorkerDied: The operating system cannot start a process now.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    python, module = launch.command
    try:
        child = await asyncio.create_subprocess_exec(
            *(str(python), "-m", module, "--fd", str(theirs.fileno()), *flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            # the archive's files, or the front's folder, must not shadow modules of ours
            env={**launch.environment, "PYTHONSAFEPATH": "1"},
        )
    except BaseException as error:
        ours.close()
        if isinstance(error, OSError):
            raise WorkerDied(f"a worker process cannot be started: {error}") from error
        raise
    finally:
        theirs.close()  # else our side never sees the end of file when the worker dies
    return child, ours


def describe_exit(code: int) -> str:
    """`exit code 3`, or `killed by SIGSEGV`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


class AdoptedChild:
    """A child that somebody else forked and that has become ours since."""

    def __init__(
        self, pid: int, pidfd: int, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._ended)

    @classmethod
    async def adopt(cls, pid: int, *, stdout: IO[bytes], stderr: IO[bytes]) -> AdoptedChild:
        """Take charge of a process.

        Args:
            pid: Its id.
            stdout: The pipe of what it prints.
            stderr: The same, of the other stream.

        Raises:
            ChildProcessError: It is no child of ours.
        """
        pidfd = _open_child(pid)
        return cls(pid, pidfd, await _reader(stdout), await _reader(stderr))

    async def wait(self) -> int:
        """Its exit code, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._code)

    def add_done_callback(self, on_end: Callable[[], None]) -> None:
        """Call this once it has ended."""
        self._code.add_done_callback(lambda _: on_end())

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            code = _UNKNOWN_CODE
        self._code.set_result(code)


class Adoption:
    """While entered, processes below this one that lose their parent become its children."""

    def __init__(self) -> None:
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._num_entered = 0

    def __enter__(self) -> None:
        self._num_entered += 1
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def __exit__(self, *_: object) -> None:
        self._num_entered -= 1
        if self._num_entered == 0:
            self._prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _open_child(pid: int) -> int:
    """A descriptor that can be read once this child has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise ChildProcessError(f"process {pid} cannot be watched: {error}") from error
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        os.close(pidfd)
        raise
    return pidfd


async def _reader(pipe: IO[bytes]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: _ClosedAtItsEnd(reader), pipe)
    return reader


class _ClosedAtItsEnd(asyncio.StreamReaderProtocol):
    """Closes the pipe once all is read; uvloop would leave that to the garbage collector."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False
