"""`MAR-INF/requires.json`: what an archive needs of the server, told before a worker tries.

    {"format": 1, "torch": ">=2.10,<3", "python": ">=3.10", "machine": "x86_64"}

Each key may be left out. Without the file, whatever does not fit is found out by the worker.
"""

from __future__ import annotations

import json
import operator
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from flambeau.errors import ArchiveError, UnsuitedArchive

REQUIRES_PATH = "MAR-INF/requires.json"

_FORMAT = 1
_KEYS = {"format", "torch", "python", "machine"}
_PART = re.compile(r"(>=|<=|==|!=|<|>)\s*(\d+(?:\.\d+)*)")
_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_PYTHON_TAG = re.compile(r"cp(\d)(\d+)")


def check_requires(model_dir: Path, *, here: Mapping[str, str] | None = None) -> None:
    """Hold what an unpacked archive needs against this machine.

    Args:
        model_dir: The unpacked archive.
        here: Versions of `torch` and `python`, and the `machine`; None looks.

    Raises:
        UnsuitedArchive: Something is of another version or kind; the message names both.
        ArchiveError: The file is not as described above.
    """
    path = model_dir / REQUIRES_PATH
    if not path.is_file():
        return
    document = _read(path)
    here = _here() if here is None else here
    if document.get("format") != _FORMAT:
        raise UnsuitedArchive(
            f"{REQUIRES_PATH} has format {document.get('format')!r} and this server reads "
            f"{_FORMAT}; serve the archive with a newer flambeau"
        )
    for what in ("torch", "python"):
        wish = _text(document, what)
        if wish is not None and not fits(here[what], wish, what):
            raise UnsuitedArchive(
                f"the archive needs {what} {wish} and this server has {here[what]}; serve it with "
                f"that {what}, or export the model again with this one"
            )
    machine = _text(document, "machine")
    if machine is not None and machine != here["machine"]:
        raise UnsuitedArchive(
            f"the archive is made for {machine} and this server runs on {here['machine']}; serve "
            "it on such a machine, or compile the model again on this one"
        )


def fits(version: str, wish: str, what: str) -> bool:
    """Whether a version satisfies `>=2.10,<3`, or begins as `2.10` or `cp310` do.

    Raises:
        ArchiveError: The wish is none; the message calls it `what`.
    """
    have = _numbers(version)
    if tag := _PYTHON_TAG.fullmatch(wish):
        wish = f"{tag[1]}.{tag[2]}"
    if re.fullmatch(r"\d+(\.\d+)*", wish):
        wanted = _numbers(wish)
        return have[: len(wanted)] == wanted
    for part in wish.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise _wrong(f"{what} is {wish!r}; write e.g. '>=2.10,<3'")
        wanted = _numbers(match[2])
        length = max(len(have), len(wanted))
        both = (numbers + (0,) * (length - len(numbers)) for numbers in (have, wanted))
        if not _COMPARE[match[1]](*both):
            return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        document: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _wrong(f"it is not JSON: {error}") from error
    if not isinstance(document, dict) or document.keys() - _KEYS:
        raise _wrong(f"it is an object with {', '.join(sorted(_KEYS))}")
    return document


def _here() -> dict[str, str]:
    return {
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong(f"{key} is {value!r}")
    return value


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (0,)


def _wrong(why: str) -> ArchiveError:
    return ArchiveError(f"{REQUIRES_PATH} is wrong: {why}; write it again")
