"""The state file's snapshot: a JSON document for people, and what a lost file is rebuilt from.

`models` is the table that TorchServe's snapshots have; `flambeau` holds all of it. It is written
after each commit, beside the state file, and tells when that file has gone back in time.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from flambeau.desired import Desired, VersionRecord
from flambeau.disk import DISK, Disk
from flambeau.errors import BadParameter
from flambeau.state import Stored
from flambeau.written_aside import written_aside

_log = logging.getLogger(__name__)

_FORMAT = 1


class _Kept(msgspec.Struct, frozen=True):
    format: int
    digest: str
    stored: Stored


class _Document(msgspec.Struct, frozen=True):
    flambeau: _Kept


def snapshot_path(state_file: Path) -> Path:
    """Where the snapshot of a state file is."""
    return state_file.with_name(f"{state_file.name}.snapshot.json")


def write_snapshot(state_file: Path, stored: Stored, *, disk: Disk = DISK) -> None:
    """Write it in the place of the last one; failing that, leave none rather than an old one."""
    path = snapshot_path(state_file)
    document = {
        "name": path.name,
        "modelCount": sum(len(entry.versions) for entry in stored.desired.models.values()),
        "models": model_table(stored.desired),
        "flambeau": {"format": _FORMAT, "digest": stored.digest, "stored": stored},
    }
    try:
        with written_aside(path, mode=0o600, disk=disk) as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    except OSError as error:
        _log.warning("snapshot %s is not written: %s", path, error)
        try:
            disk.unlink(path)
        except OSError:
            _log.warning("snapshot %s is out of date and cannot be removed", path)


def read_snapshot(state_file: Path, *, disk: Disk = DISK) -> Stored | None:
    """What was written last; None if there is none that can be trusted.

    Raises:
        OSError: It cannot be read at the moment.
    """
    path = snapshot_path(state_file)
    try:
        kept = msgspec.json.decode(disk.read(path), type=_Document).flambeau
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, BadParameter, ValueError) as error:
        _log.warning("snapshot %s is damaged: %s", path, error)
        return None
    if kept.format != _FORMAT or kept.stored.digest != kept.digest:
        _log.warning("snapshot %s is damaged, or of another version", path)
        return None
    return kept.stored


def model_table(desired: Desired) -> dict[str, dict[str, dict[str, object]]]:
    """What is served, as TorchServe's snapshots tell it."""
    return {
        name: {
            record.version: _entry(record, is_default=record.version == entry.default)
            for record in entry.versions
        }
        for name, entry in sorted(desired.models.items())
    }


def _entry(record: VersionRecord, *, is_default: bool) -> dict[str, object]:
    settings = record.settings
    return {
        "defaultVersion": is_default,
        "marName": record.url,
        "minWorkers": settings.min_workers,
        "maxWorkers": settings.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "responseTimeout": settings.response_timeout_s,
        "startupTimeout": settings.startup_timeout_s,
        "runtimeType": record.runtime,
    }
