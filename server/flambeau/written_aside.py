"""Files that appear under their name whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flambeau.disk import DISK, Disk


@contextmanager
def written_aside(
    path: Path, *, mode: int = 0o666, outlives_crash: bool = True, disk: Disk = DISK
) -> Generator[BinaryIO]:
    """A new file that takes the name `path` when the block ends, complete and on disk.

    It is hidden beside `path` until then, and vanishes when the block raises.

    Args:
        path: Its name.
        mode: Who may use it, from its first moment on, less the umask.
        outlives_crash: Whether the name must be there after the machine has crashed. Then an
            OSError may also mean that `path` is complete, but perhaps only until a crash.
        disk: What it is written to.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with disk.create(aside, mode=mode) as file:
            yield file
            disk.fsync(file)
        disk.rename(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if outlives_crash:
        disk.sync_directory(path.parent)
