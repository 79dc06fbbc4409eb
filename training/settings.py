"""Fit plain values into dataclass fields: the machinery below `config.py`, which says what exists.

A setting is addressed by its dotted key, `epochs` or `optimizer.lr`. A value that does not fit is
never passed on: the message names the key, the value, and what would fit.
"""

from __future__ import annotations

import difflib
import importlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from flambeau.errors import ConfigError

# By name, so that type checkers ask for neither tomli on 3.11 nor tomllib on 3.10.
toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


class Section(Protocol):
    """A frozen dataclass of settings.

    Attributes:
        section: What stands before its keys: `optimizer.`, or nothing at the top.
        __dataclass_fields__: Makes it a dataclass in the eyes of type checkers.
    """

    section: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers a setting accepts: from `low` (or above it, when `exclusive`) to `high`."""

    low: float
    high: float = math.inf
    exclusive: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.exclusive else value >= self.low
        return above and value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        text = f"above {self.low:.12g}" if self.exclusive else f"of {self.low:.12g} or more"
        return text if math.isinf(self.high) else f"{text} and at most {self.high:.12g}"


def read_toml(path: Path) -> dict[str, object]:
    """The tables of a TOML file.

    Raises:
        ConfigError: The file cannot be read or is not TOML.
    """
    try:
        return cast("dict[str, object]", toml.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"cannot read the config {path}: {error.strerror}; see training/configs/"
        ) from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise ConfigError(f"{path} is not TOML: {error}") from error


def flatten(mapping: Mapping[str, object], *, prefix: str = "") -> dict[str, object]:
    """Nested tables as one, by dotted key."""
    flat: dict[str, object] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(cast("Mapping[str, object]", value), prefix=f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_override(top: type[Section], override: str) -> tuple[str, object]:
    """The dotted key and the value of `key=value`; text needs no quotes, the rest is TOML."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is not an override; write key=value, e.g. epochs=10")
    hint = _hints(top).get(key, str)
    if hint in (str, Path, Path | None) or get_origin(hint) is Literal:
        return key, text or None
    try:
        return key, toml.loads(f"value = {text}")["value"]
    except ValueError:
        return key, text  # `check` says what would fit


def build(top: type[SectionT], values: Mapping[str, object]) -> SectionT:
    """Make `top` and its sections from values by dotted key, defaults elsewhere.

    Raises:
        ConfigError: A key is unknown, or a value does not fit.
    """
    known = _hints(top)
    tree: dict[str, object] = {}
    sections: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(_unknown(key, known=list(known)))
        section, _, name = key.rpartition(".")
        (sections.setdefault(section, {}) if section else tree)[name] = value
    types = get_type_hints(top)
    tree |= {section: types[section](**settings) for section, settings in sections.items()}
    return top(**tree)


def check(config: Section) -> None:
    """Bring every value into its field's type: a list into a tuple, text into a path.

    Raises:
        ConfigError: A value does not fit.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for item in fields(config):
        hint, value = hints[item.name], getattr(config, item.name)
        fitted = _fit(value, hint)
        if fitted is _MISFIT:
            shown = "not set" if value is None else repr(value)
            raise ConfigError(f"{config.section}{item.name} is {shown}; use {_describe(hint)}")
        object.__setattr__(config, item.name, fitted)  # the one way to set a frozen field


def plain(value: object) -> object:
    """The same as nested dicts, lists, strings and numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("list[object]", value)]
    return str(value) if isinstance(value, Path) else value


def _hints(top: type[Section]) -> dict[str, object]:
    """The type of every setting, by dotted key."""
    types = get_type_hints(top, include_extras=True)
    hints: dict[str, object] = {}
    for item in fields(top):
        if is_dataclass(section := types[item.name]):
            inner = get_type_hints(section, include_extras=True)
            hints |= {f"{item.name}.{f.name}": inner[f.name] for f in fields(section)}
        else:
            hints[item.name] = section
    return hints


def _unknown(key: str, *, known: list[str]) -> str:
    same_name = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_name or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"there is no setting {key!r}; did you mean {near[0]!r}?"
    return f"there is no setting {key!r}; the settings are {', '.join(known)}"


_MISFIT = object()


def _fit(value: object, hint: object) -> object:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        fitted = _fit(value, args[0])
        return fitted if fitted is _MISFIT or fitted in args[1] else _MISFIT
    if origin in (Union, UnionType):
        fits = (fit for arm in args if (fit := _fit(value, arm)) is not _MISFIT)
        return next(fits, _MISFIT)
    if origin is tuple:
        given = cast("list[object]", value) if isinstance(value, list | tuple) else []
        items = [_fit(item, args[0]) for item in given]
        return tuple(items) if items and _MISFIT not in items else _MISFIT
    if origin is Literal:
        return value if value in args else _MISFIT
    return _fit_plain(value, cast("type", hint))


def _fit_plain(value: object, hint: type) -> object:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, bool) and hint is not bool:  # a bool is an int to isinstance
        return _MISFIT
    if hint is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, hint) else _MISFIT


_KINDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
}


def _describe(hint: object) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_describe(args[0])} {args[1]}"
    if origin is Literal:
        return "one of " + ", ".join(args)
    if origin in (Union, UnionType):
        return _describe(args[0])
    if origin is tuple:
        return f"a list, each {_describe(args[0])}"
    return _KINDS[hint]
