"""What the server remembers, as its event loop sees it: read at once, changed once it is on disk.

The state file is used by a thread of its own, the only one that ever writes it. Without a state
file nothing is remembered, and every change succeeds.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from flambeau.config import AUTO_STATE_FILE, ServeConfig
from flambeau.desired import Desired, VersionRecord
from flambeau.disk import DISK, Disk
from flambeau.errors import ConfigError, StateFull, StateNotSaved
from flambeau.model_version import ModelVersion
from flambeau.state import Operation, StateDamaged, StateFile
from flambeau.state_lock import state_lock
from flambeau.state_recovery import open_state
from flambeau.state_snapshot import write_snapshot

_log = logging.getLogger(__name__)

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Change = Callable[[Desired], Desired]


class Memory:
    """Owner of the desired state.

    Attributes:
        desired: What is to be served, as far as clients have been told.
        lost: Why that may be less than once was served; empty when nothing is missing.
    """

    def __init__(self, file: StateFile | None = None, *, disk: Disk = DISK) -> None:
        """Remember what the file holds; nothing beyond this process when it is None."""
        # for the life of the server
        self._file = file
        self._disk = disk
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="state")
        # changes with each commit
        self.desired = file.stored.desired if file else Desired()
        self.lost = file.stored.lost if file else ""

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, config: ServeConfig, *, environment: Mapping[str, str] = os.environ, disk: Disk = DISK
    ) -> AsyncGenerator[Memory]:
        """What the configuration wants remembered, for as long as the block lasts.

        Raises:
            ConfigError: The file is another server's, or cannot be used. Where nobody has named
                it, that is a warning, and nothing is remembered.
        """
        path = state_file_of(config, environment)
        memory = cls(disk=disk)
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            stack.callback(memory._writer.shutdown)
            if path is not None:
                try:
                    lock = state_lock(path)  # waits for a server that is ending
                    await loop.run_in_executor(memory._writer, stack.enter_context, lock)
                    file = await loop.run_in_executor(
                        memory._writer, lambda: open_state(path, fresh=config.fresh, disk=disk)
                    )
                except (OSError, sqlite3.Error) as error:
                    text = f"state_file {path} cannot be used: {error}; name a place on a local "
                    text += "disk that the server may write to, or an empty one to remember nothing"
                    if config.state_file != AUTO_STATE_FILE:
                        raise ConfigError(text) from error
                    _log.warning(text)
                else:
                    stack.callback(lambda: memory._writer.submit(file.close).result())
                    memory._file = file
                    memory.desired, memory.lost = file.stored.desired, file.stored.lost
            yield memory

    def assume(self, change: Change) -> None:
        """Take in what follows from the configuration; it is written with the next commit."""
        self.desired = change(self.desired)

    async def commit(self, operation: Operation, change: Change) -> None:
        """Write a change down; when this returns it outlives any crash.

        Only one at a time; it must not be cancelled.

        Args:
            operation: What it is called in the log of operations.
            change: Makes the new state of the present one.

        Raises:
            StateFull, StateNotSaved: It is not written, and must not be made.
        """
        if self._file is not None:
            wanted = change(self.desired)
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._writer, self._save, wanted, operation)
            except (OSError, sqlite3.Error, StateDamaged) as error:
                kind = StateFull if _is_full(error) else StateNotSaved
                raise kind(
                    f"nothing was changed, as the state file {self._file.path} cannot be written: "
                    f"{error}; make room or mend the disk, and try again"
                ) from error
        self.desired = change(self.desired)

    async def commit_start(self) -> None:
        """Write down what has been assumed, if that is anything new; a failure is logged."""
        if self._file is None or self.desired == self._file.stored.desired:
            return
        try:
            await self.commit(Operation(name="start"), lambda desired: desired)
        except StateNotSaved as error:
            _log.warning("what is served is not written down yet: %s", error.__cause__)

    def _save(self, desired: Desired, operation: Operation) -> None:
        """In the writer's thread."""
        assert self._file is not None
        self._file.commit(desired, operation)
        write_snapshot(self._file.path, self._file.stored, disk=self._disk)


def record_of(version: ModelVersion, *, is_scaled: bool = False) -> VersionRecord:
    """What has to be known of a version to serve it again."""
    package = version.package
    return VersionRecord(
        model=version.model,
        version=version.version,
        url=package.url,
        digest=package.digest,
        settings=version.settings,
        handler=package.handler,
        runtime=package.manifest.runtime,
        at_startup=package.at_startup,
        is_scaled=is_scaled,
    )


def state_file_of(config: ServeConfig, environment: Mapping[str, str]) -> Path | None:
    """Where the state file is: by itself one for each model store, below `XDG_STATE_HOME`."""
    if not config.state_file:
        return None
    if config.state_file != AUTO_STATE_FILE:
        return Path(config.state_file).absolute()
    store = config.model_store.resolve()
    home = Path(environment.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    name = f"{store.name}-{hashlib.sha256(bytes(store)).hexdigest()[:12]}.db"
    return home.absolute() / "flambeau" / name


def _is_full(error: Exception) -> bool:
    return (isinstance(error, OSError) and error.errno in _FULL) or "is full" in str(error)
