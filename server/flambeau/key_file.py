"""`key_file.json`: where the server's owner, and nobody else, reads the keys that callers need."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flambeau.config import ServeConfig
from flambeau.disk import DISK, Disk
from flambeau.errors import ConfigError
from flambeau.tokens import KeyRing, Role
from flambeau.written_aside import written_aside

_log = logging.getLogger(__name__)


class KeyFile:
    """One file that only its owner can read, from the moment it exists."""

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        """Raises ConfigError when `path` is a link or a directory."""
        if path.is_symlink() or path.is_dir():
            raise ConfigError(
                f"key_file {path} is a {'link' if path.is_symlink() else 'directory'}; "
                "remove it, or name another file"
            )
        self._path = path.absolute()
        self._disk = disk
        self._written: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        return self._path

    def write(self, document: Mapping[str, object]) -> None:
        """Put `document` in the place of what is there, whole or not at all.

        Raises:
            OSError: It cannot be written; what was there stays.
        """
        # never to be read by others: the mode is there from the first moment
        with written_aside(self._path, mode=0o600, outlives_crash=False, disk=self._disk) as file:
            file.write(json.dumps(document, indent=2).encode() + b"\n")
            status = os.fstat(file.fileno())
        self._written = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Delete the file, unless somebody else has put another one there."""
        try:
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._written:
                self._path.unlink()
        except FileNotFoundError:
            pass


class Tokens:
    """The server's keys, and the file that tells them; `opened` makes one."""

    def __init__(self, keys: KeyRing, file: KeyFile) -> None:
        self.keys = keys
        self._file = file
        self._renewing = asyncio.Lock()

    @classmethod
    @contextmanager
    def opened(cls, config: ServeConfig) -> Generator[Tokens | None]:
        """Keys in a file for as long as the block lasts; None when nobody needs any.

        Raises:
            ConfigError: The file cannot be written.
        """
        if not config.token_auth:
            yield None
            return
        tokens = cls(KeyRing(lifetime_s=config.token_expiration_min * 60), KeyFile(config.key_file))
        tokens.write(config)
        try:
            yield tokens
        finally:
            tokens._file.remove()

    def write(self, config: ServeConfig) -> None:
        """Write the file for the first time; raises ConfigError when that fails."""
        try:
            self._file.write(self.keys.document())
        except OSError as error:
            raise ConfigError(
                f"key_file {config.key_file} cannot be written: {error.strerror or error}; name a "
                "place that the server may write to"
            ) from error
        _log.info("tokens are asked for", extra={"key_file": str(self._file.path)})

    async def renew(self, role: Role) -> None:
        """Replace a role's key; when this returns, the old one is worth nothing.

        Raises:
            OSError: The file cannot be written; the old key stays.
        """
        # to its end, even when the caller goes away: file and keys must not differ
        await asyncio.shield(asyncio.ensure_future(self._renew(role)))

    async def _renew(self, role: Role) -> None:
        async with self._renewing:
            old, new = self.keys.newest(role), self.keys.add(role)
            try:
                await asyncio.to_thread(self._file.write, self.keys.document())
            except OSError:
                self.keys.keep_only(old)
                raise
            self.keys.keep_only(new)
        _log.info("a token was renewed", extra={"role": role.value})
