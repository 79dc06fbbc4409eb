"""Snapshots on disk: properties files `<logs>/config/<time>-<kind>.cfg`, which sort by time."""

from __future__ import annotations

import re
from datetime import datetime
from enum import Enum
from pathlib import Path

from flambeau.errors import ConfigError

_NAME = re.compile(r"\d{17}-(startup|snapshot|shutdown)\.cfg")


class SnapshotKind(Enum):
    """At which moment a snapshot was taken."""

    STARTUP = "startup"
    SNAPSHOT = "snapshot"
    SHUTDOWN = "shutdown"


def snapshot_dir(log_dir: Path) -> Path:
    """The directory of snapshots, which need not be there."""
    return log_dir / "config"


def snapshot_name(kind: SnapshotKind, *, now: datetime) -> str:
    """`<yyyyMMddHHmmssSSS>-<kind>.cfg`."""
    return f"{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}-{kind.value}.cfg"


def newest_snapshot(log_dir: Path) -> Path | None:
    """The snapshot taken last, or None."""
    try:
        names = [path for path in snapshot_dir(log_dir).iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return None
    return max(names, key=lambda path: path.name, default=None)


def check_archives(models: tuple[str, ...], model_store: Path) -> None:
    """Refuse a start from a snapshot whose archives have gone.

    Raises:
        ConfigError: One is not in the store.
    """
    for model in models:
        name, _, archive = model.partition("=")
        if "://" not in archive and not (model_store / archive).exists():
            raise ConfigError(
                f"the snapshot serves {name} from {archive}, which is not in {model_store}; put "
                "it back, or start with --ncs"
            )
