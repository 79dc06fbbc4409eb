"""What a model may be called: what a path can say and a log can show."""

from __future__ import annotations

import unicodedata
from typing import Final

from flambeau.errors import BadParameter

_MAX_CHARACTERS: Final = 255
_SEPARATORS: Final = set("/\\")


def check_model_name(name: str) -> None:
    """Let a name pass, or raise.

    Raises:
        BadParameter: It is empty or too long, only dots, or has a slash, a control character or a
            space at an end.
    """
    if not name or len(name) > _MAX_CHARACTERS:
        raise BadParameter(f"model_name has {len(name)} characters; use 1 to {_MAX_CHARACTERS}")
    is_odd = any(unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in name)
    if is_odd or name != name.strip() or not name.strip(".") or _SEPARATORS & set(name):
        raise BadParameter(
            f"model_name is {name!r}; use letters, digits and `._-`, as in `resnet-18`"
        )
