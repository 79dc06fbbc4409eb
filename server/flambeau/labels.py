"""Names of classes: `index_to_name.json`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from flambeau.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INDEX_TO_NAME: Final = "index_to_name.json"


def label_of(index: int, mapping: Mapping[str, str] | None) -> str:
    """The class's name, or its index as text when nothing names it."""
    return (mapping or {}).get(str(index), str(index))


def load_label_mapping(path: Path) -> dict[str, str] | None:
    """Read `index_to_name.json`: labels by class index as text; None when there is no such file.

    Accepts `{"0": "cat"}`, `{"0": ["n02123045", "tabby"]}` (the last item is the label) and
    `{"object_type_names": ["cat", ...]}`.

    Raises:
        ArchiveError: The file is none of these.
    """
    if not path.is_file():
        return None
    try:
        mapping = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArchiveError(f"{path.name} is not JSON ({error})") from error
    if isinstance(mapping, dict) and isinstance(mapping.get("object_type_names"), list):
        mapping = dict(enumerate(mapping["object_type_names"]))
    if not isinstance(mapping, dict):
        raise ArchiveError(f'{path.name} is not an object like {{"0": "cat", "1": "dog"}}')
    return {str(index): _label(index, value, path) for index, value in mapping.items()}


def _label(index: object, value: object, path: Path) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, (str, int)):
        raise ArchiveError(f"{path.name} names class {index} {value!r}; give text")
    return str(value)
