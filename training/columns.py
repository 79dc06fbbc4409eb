"""Files with columns: CSV, TSV, JSON lines and Parquet, read as texts, each with its place.

What a value means is for `tables.py` and `text.py` to say; here, it is what the file has.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from flambeau.errors import ConfigError
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

MAX_CHARACTERS = 1_000_000  # of a text or a line; more is a file in another format

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What a file has.

    Attributes:
        path: The file.
        names: Of the columns, all different.
        rows: Each with one value per column; an empty text where there is none.
        places: Where each row is, such as `line 7`.
    """

    path: Path
    names: list[str]
    rows: list[list[str]]
    places: list[str]

    def index(self, name: str, *, setting: str) -> int:
        """The place of a column.

        Raises:
            ConfigError: There is none of that name; `setting` is what named it.
        """
        if name in self.names:
            return self.names.index(name)
        near = get_close_matches(name, self.names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(self.names)}"
        raise ConfigError(f"{setting} is {name!r}, and {self.path} has no such column; {hint}")

    def where(self, row: int, column: int) -> str:
        """What messages call a value."""
        return f"{self.path}, {self.places[row]}, column {self.names[column]!r}"


def read_columns(path: Path) -> Columns:
    """Read a file in the format that its suffix says.

    Raises:
        ConfigError: The suffix is none of those, or Parquet cannot be read here.
        DataError: The file is missing, empty, damaged, or its rows differ in length.
    """
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        columns = _read_csv(path, delimiter=_DELIMITERS[suffix])
    elif suffix in _JSON_LINES:
        columns = _read_json_lines(path)
    elif suffix == ".parquet":
        columns = _read_parquet(path)
    else:
        raise ConfigError(
            f"data.root is {path}; use a file ending in .csv, .tsv, .jsonl, .ndjson or .parquet"
        )
    if not columns.rows:
        raise DataError(f"{path} has no rows; give some, after a first line with column names")
    return columns


def read_text(path: Path) -> str:
    """A file's text, UTF-8 with or without a byte order mark.

    Raises:
        DataError: It cannot be read, or is not UTF-8; the message names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check data.root") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the file as "
            "UTF-8"
        ) from error


def from_values(path: Path, values: Mapping[str, Sequence[object]]) -> Columns:
    """What Parquet has, as texts; numbers keep all their digits."""
    names = list(values)
    rows = [list(map(_text, row)) for row in zip(*values.values(), strict=True)]
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    return Columns(path=path, names=names, rows=rows, places=places)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def _read_csv(path: Path, *, delimiter: str) -> Columns:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    places: list[str] = []
    try:
        for row in reader:
            if not names:
                names = _checked_names(path, row)
            elif row:
                rows.append(_checked_row(path, row, names, line=reader.line_num))
                places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}; is a quote missing, or one too many?"
        ) from error
    return Columns(path=path, names=names, rows=rows, places=places)


def _checked_names(path: Path, row: Sequence[str]) -> list[str]:
    names = [name.strip() for name in row]
    if not all(names):
        raise DataError(f"{path}, line 1: column {names.index('') + 1} has no name; give it one")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}, line 1: two columns are called {twice[0]!r}; rename one")
    return names


def _checked_row(path: Path, row: list[str], names: Sequence[str], *, line: int) -> list[str]:
    if len(row) != len(names):
        raise DataError(
            f"{path}, line {line} has {len(row)} values, and line 1 names {len(names)} columns; "
            "correct it, or put quotes around values with commas in them"
        )
    return row


def _read_json_lines(path: Path) -> Columns:
    names: list[str] = []
    rows: list[list[str]] = []
    places: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        values = _read_object(line, where=f"{path}, line {number}")
        names = names or list(values)
        if values.keys() - set(names):
            extra = sorted(values.keys() - set(names))
            raise DataError(
                f"{path}, line {number} has {', '.join(extra)}, which the first line has not; name "
                "all columns in the first line"
            )
        rows.append([values.get(name, "") for name in names])
        places.append(f"line {number}")
    return Columns(path=path, names=names, rows=rows, places=places)


def _read_object(line: str, *, where: str) -> dict[str, str]:
    """An object's values as texts: numbers as they are written, null as nothing."""
    if len(line) > MAX_CHARACTERS:
        raise DataError(
            f"{where} has {len(line):,} characters; at most {MAX_CHARACTERS:,} are read, so write "
            "one object per line"
        )
    try:
        content: object = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}; write one object per line") from error
    if not isinstance(content, dict):
        raise DataError(f"{where} is no JSON object; write one object per line")
    values = cast("dict[str, object]", content)
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise DataError(f"{where}, {name!r} is not one value; write a text or a number")
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _read_parquet(path: Path) -> Columns:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")  # 55 MB, for those who need it
    except ImportError as error:
        raise ConfigError(
            f"{path} is Parquet, which pyarrow reads: pip install 'flambeau[parquet]'"
        ) from error
    try:
        values = parquet.read_table(path).to_pydict()
    except Exception as error:  # of OSError's and ValueError's kinds, and pyarrow's own
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"cannot read {path}: {reason}; is it a Parquet file?") from error
    return from_values(path, values)
