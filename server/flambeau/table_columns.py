"""`TableColumns`: from a row with its columns' names to the numbers that a table's model takes.

An archive has them as `columns.json`; `training/tables.py` numbers categories in the same way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from flambeau.errors import ArchiveError, InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS_FILE: Final = "columns.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TableColumns:
    """The columns of a table.

    Attributes:
        names: In the model's order.
        categories: Of the columns that have no numbers: the known values, of which the first is 1
            to the model; any other is 0.
    """

    names: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    def numbers(self, row: Mapping[str, object]) -> list[float]:
        """What the model takes; further columns are left out.

        Raises:
            InvalidInput: A column is missing, or has something else than one number or text.
        """
        if missing := [name for name in self.names if row.get(name) is None]:
            raise InvalidInput(
                f"the row has no {', '.join(map(repr, missing))}; send {', '.join(self.names)}"
            )
        return [self._number(name, row[name]) for name in self.names]

    def _number(self, name: str, value: object) -> float:
        known = self.categories.get(name)
        if known is not None and isinstance(value, str | int | float):
            text = str(value).strip()
            return float(known.index(text) + 1) if text in known else 0.0
        if known is None and isinstance(value, int | float) and not isinstance(value, bool):
            number = _float(value)
            if math.isfinite(number):
                return number
        wanted = "a number" if known is None else f"one of {', '.join(known)}"
        raise InvalidInput(f"{name!r} is {str(value)[:80]!r}; send {wanted}")

    def to_json(self) -> bytes:
        """The content of `columns.json`."""
        document = {
            "names": list(self.names),
            "categories": {name: list(known) for name, known in self.categories.items()},
        }
        return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()


def read_table_columns(model_dir: Path) -> TableColumns:
    """The columns of an unpacked archive.

    Raises:
        ArchiveError: It has none, or something else.
    """
    path = model_dir / COLUMNS_FILE
    try:
        document: Any = json.loads(path.read_bytes())
        names, categories = _texts(document["names"]), document["categories"]
        return TableColumns(
            names=names,
            categories={
                name: _texts(categories[name]) for name in names if name in dict(categories)
            },
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchiveError(
            f"the archive has no {COLUMNS_FILE} with names and categories ({error!r}); export the "
            "model again"
        ) from error


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise TypeError("not a list of texts")
    texts = cast("list[object]", value)
    return tuple(text if isinstance(text, str) else _refuse(text) for text in texts)


def _refuse(value: object) -> str:
    raise TypeError(f"{value!r} is not a text")


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int of hundreds of digits
        return math.inf
