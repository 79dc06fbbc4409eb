"""`MAR-INF/lineage.json`: where an archive comes from."""

from __future__ import annotations

import json
import math
import platform
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import torch

import flambeau
from flambeau.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flambeau.exporting.options import Target


def lineage_json(stated: Mapping[str, Any], *, target: Target, created_at: datetime) -> bytes:
    """What the caller states about the run, after what the export knows by itself.

    Args:
        stated: Plain data, e.g. `git_commit`, `data_digest`, `metrics`; NaN is written as null.
        target: The kind of program.
        created_at: When, with a time zone.

    Raises:
        ExportError: Something stated is not plain data, or has a name the export gives itself.
    """
    known: dict[str, Any] = {
        "created_at": created_at.astimezone(timezone.utc).isoformat(timespec="seconds"),
        "target": target.value,
        "flambeau_version": flambeau.__version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
    }
    if taken := known.keys() & stated.keys():
        raise ExportError(f"lineage states {sorted(taken)}, which the export states itself")
    try:
        text = json.dumps(known | _finite(dict(stated)), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"lineage is not plain data ({error}); use dicts, lists, text, numbers"
        ) from error
    return (text + "\n").encode()


def _finite(value: Any) -> Any:  # noqa: ANN401  # plain data of any kind
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
