"""A model's YAML (`model-config.yaml`), read in one place.

The front takes workers and batching from it (`model_settings.py`); handlers see all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flambeau.errors import ArchiveError


def read_model_yaml(model_dir: Path, config_file: str | None) -> dict[str, Any]:
    """The document the manifest's `configFile` names; empty when it names none.

    Raises:
        ArchiveError: The file is missing, or is not a YAML mapping of plain values.
    """
    if config_file is None:
        return {}
    try:
        document = yaml.safe_load((model_dir / config_file).read_bytes())
    except FileNotFoundError as error:
        raise ArchiveError(
            f"the manifest names config file {config_file!r}, which is not in the archive; "
            "build it again"
        ) from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{config_file} is not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ArchiveError(
            f"{config_file} is a {type(document).__name__}; write `key: value` lines"
        )
    return document
