"""A model's YAML (`model-config.yaml`), read in one place.

The front takes workers and batching from it (`model_settings.py`); handlers see all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flambeau.errors import ArchiveError

_MAX_BYTES = 1 << 20


def read_model_yaml(model_dir: Path, config_file: str | None) -> dict[str, Any]:
    """The document the manifest's `configFile` names; empty when it names none.

    Raises:
        ArchiveError: The file is missing, is not a YAML mapping of plain values, or is over 1 MiB.
    """
    if config_file is None:
        return {}
    try:
        size_bytes = (model_dir / config_file).stat().st_size
        if size_bytes > _MAX_BYTES:
            raise ArchiveError(
                f"{config_file} has {size_bytes} bytes; at most {_MAX_BYTES} are read"
            )
        document = yaml.safe_load((model_dir / config_file).read_bytes())
    except FileNotFoundError as error:
        raise ArchiveError(
            f"the manifest names config file {config_file!r}, which is not in the archive; "
            "build it again"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ArchiveError(f"{config_file} is not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ArchiveError(
            f"{config_file} is a {type(document).__name__}; write `key: value` lines"
        )
    return document
