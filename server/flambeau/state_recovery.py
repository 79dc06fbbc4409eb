"""Opening the state file at a start: sound, rebuilt from its snapshot, or known to be lost.

A damaged file is moved aside, never deleted, and what takes its place says so until a start with
`--fresh`. A file that is sound but older than its snapshot counts as damaged: somebody has brought
an old copy back, or removed its log.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flambeau.disk import DISK, Disk
from flambeau.state import StateDamaged, StateFile, Stored, companions
from flambeau.state_snapshot import read_snapshot, snapshot_path, write_snapshot

_log = logging.getLogger(__name__)


def open_state(path: Path, *, fresh: bool = False, disk: Disk = DISK) -> StateFile:
    """The state file, as it is or in the best form that can be vouched for.

    Args:
        path: Where it is, or will be.
        fresh: Begin with nothing, whatever there is; it is moved aside.
        disk: What it is on.

    Raises:
        OSError, sqlite3.Error: It cannot be read or written at the moment; nothing has changed.
    """
    if fresh:
        _move_aside(path, disk=disk)
        disk.unlink(snapshot_path(path))
        return _begin(path, Stored(), disk=disk)
    snapshot = read_snapshot(path, disk=disk)
    try:
        file = StateFile.open(path, disk=disk)
    except FileNotFoundError:
        return _without_file(path, snapshot, disk=disk)
    except StateDamaged as error:
        return _rebuild(path, snapshot, str(error), disk=disk)
    if (why := _contradiction(file.stored, snapshot)) is not None:
        file.close()
        return _rebuild(path, snapshot, why, disk=disk)
    if snapshot != file.stored:
        write_snapshot(path, file.stored, disk=disk)
    return file


def _contradiction(stored: Stored, snapshot: Stored | None) -> str | None:
    """Why the snapshot is to be believed rather than a sound file; None when it is not."""
    if snapshot is None:
        return None
    if stored.instance != snapshot.instance:
        return "it is another server's"
    if stored.generation < snapshot.generation:
        return f"it is at generation {stored.generation}, its snapshot at {snapshot.generation}"
    return None


def _without_file(path: Path, snapshot: Stored | None, *, disk: Disk) -> StateFile:
    """The first start, unless something tells of an earlier one."""
    if snapshot is not None:
        return _rebuild(path, snapshot, "it is missing", disk=disk)
    traces = [each for each in (_aside(path, 1), *companions(path)) if each.exists()]
    if traces:
        return _rebuild(path, None, f"it is missing, while {traces[0].name} is there", disk=disk)
    return _begin(path, Stored(), disk=disk)


def _rebuild(path: Path, snapshot: Stored | None, why: str, *, disk: Disk) -> StateFile:
    """What the snapshot holds, or nothing and a reason not to be ready."""
    moved = _move_aside(path, disk=disk)
    where = f"; it was moved to {moved}" if moved else ""
    _log.error("state file %s cannot be used: %s%s", path, why, where)
    if snapshot is not None:
        _log.warning("state file %s is rebuilt from %s", path, snapshot_path(path))
        return _begin(path, replace(snapshot, generation=snapshot.generation + 1), disk=disk)
    lost = (
        f"what was served is not known: state file {path} cannot be used ({why}){where}; put a "
        "copy of it back, or start with --fresh and register the models again"
    )
    return _begin(path, Stored(lost=lost), disk=disk)


def _begin(path: Path, stored: Stored, *, disk: Disk) -> StateFile:
    file = StateFile.create(path, stored, disk=disk)
    write_snapshot(path, stored, disk=disk)
    return file


def _move_aside(path: Path, *, disk: Disk) -> Path | None:
    """Give the file and its companions another name; returns it, if there was a file."""
    aside = next(each for n in itertools.count(1) if not (each := _aside(path, n)).exists())
    has_moved = False
    for old, new in zip((path, *companions(path)), (aside, *companions(aside)), strict=True):
        with suppress(FileNotFoundError):
            disk.rename(old, new)
            has_moved = has_moved or old == path
    return aside if has_moved else None


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.moved-{number}")
