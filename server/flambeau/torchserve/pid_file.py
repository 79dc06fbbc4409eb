"""The file that names the running server's process, and whether that process really is one."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flambeau.errors import ConfigError

_MODULE = b"flambeau.torchserve"


@dataclass(frozen=True, slots=True)
class PidFile:
    """Where `torchserve --stop` finds whom to stop."""

    path: Path

    @classmethod
    def default(cls) -> PidFile:
        """TorchServe's place, in the directory for temporary files."""
        return cls(Path(tempfile.gettempdir()) / ".model_server.pid")

    def running(self) -> int | None:
        """The server's process, or None; a file that names no server of ours is removed.

        Raises:
            ConfigError: The file is another user's.
        """
        try:
            pid = int(self.path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except ValueError:
            pid = 0
        except OSError as error:
            raise self._foreign(error) from error
        if pid == os.getpid():
            return None  # written by the process that started this one
        if pid > 0 and is_server(pid):
            return pid
        print("Removing orphan pid file.", flush=True)  # TorchServe's text
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._foreign(error) from error
        return None

    def write(self, pid: int) -> None:
        """Name the running server.

        Raises:
            ConfigError: The file cannot be written.
        """
        try:
            self.path.write_text(str(pid), encoding="ascii")
        except OSError as error:
            raise self._foreign(error) from error

    def remove(self, pid: int) -> None:
        """Forget this process, unless the file names another one by now."""
        try:
            if int(self.path.read_text(encoding="ascii")) == pid:
                self.path.unlink(missing_ok=True)
        except (OSError, ValueError):
            return  # gone, or no longer ours

    def _foreign(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.path} cannot be used: {error.strerror}; another user's server may run here: "
            "set TEMP to a directory of your own"
        )


def is_server(pid: int) -> bool:
    """Whether a process runs this command; numbers are used again once a process has ended."""
    return _MODULE in _words(pid)


def _words(pid: int) -> list[bytes]:
    """A process's command line; empty when it has ended."""
    process = Path(f"/proc/{pid}")
    try:
        return (process / "cmdline").read_bytes().split(b"\0")  # empty for a zombie
    except OSError:
        if process.parent.joinpath("self").exists():
            return []
    listing = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
    )
    return listing.stdout.split()
