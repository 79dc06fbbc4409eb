"""A model's YAML with some of its keys set, and all else as its author wrote it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping


def with_settings(text: str, settings: Mapping[str, int | str]) -> str:
    """Set top-level keys in a YAML mapping.

    Args:
        text: A mapping of plain values, or nothing.
        settings: Values by key.

    Returns:
        The text with the lines of these keys replaced or added; written anew, without its comments,
        where that is not possible, as in a mapping within braces.
    """
    document: dict[str, Any] = yaml.safe_load(text) or {}
    wanted = {**document, **settings}
    anew = yaml.safe_dump(wanted, sort_keys=False)
    edited = text if text.endswith("\n") or not text else text + "\n"
    for key, value in settings.items():
        line = yaml.safe_dump({key: value}).rstrip("\n")  # quotes what YAML would misread
        found = re.search(rf"^{re.escape(key)}[ \t]*:.*$", edited, re.MULTILINE)
        if found is not None:
            edited = edited[: found.start()] + line + edited[found.end() :]
        elif key in document:
            return anew  # it is there in a spelling that we do not know
        else:
            edited += f"{line}\n"
    return edited if _says(edited, wanted) else anew


def _says(text: str, document: Mapping[str, Any]) -> bool:
    try:
        return bool(yaml.safe_load(text) == document)
    except yaml.YAMLError:
        return False
