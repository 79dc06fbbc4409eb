"""JSON that every reader understands alike: RFC 8259 without what that leaves open.

For documents that say what the server is to do. Inputs of models are decoded by `codec.py`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, NoReturn

MAX_DEPTH: Final = 64
_MAX_DIGITS: Final = (
    400  # float64 ends at 309; reading long numbers takes the square of their length
)

# a string, also one that lacks its end, or a bracket
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_BRACKETS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


class AmbiguousJSON(ValueError):  # noqa: N818  # it is what it says
    """The text is JSON, but readers differ in what it says, or in whether they can read it."""


def read_json(body: bytes | bytearray) -> object:
    """Decode a document.

    Raises:
        AmbiguousJSON: It repeats a name, is nested more than `MAX_DEPTH` deep, holds half a
            character, a number that no float holds, NaN or infinity, or begins with a byte order
            mark.
        ValueError: It is not JSON in UTF-8. Both say where, or what.
    """
    text = body.decode("utf-8")
    if text.startswith("\ufeff"):
        raise AmbiguousJSON("a byte order mark at character 0; leave it away")
    _scan(text)
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_constant=_refuse,
        parse_int=_int,
        parse_float=_float,
    )


def _scan(text: str) -> None:
    """Look at brackets and escapes, in one pass and before anything is built of them."""
    depth = 0
    for token in _TOKEN.finditer(text):
        found = token[0]
        if found[0] != '"':
            depth += _BRACKETS[found]
            if depth > MAX_DEPTH:
                raise AmbiguousJSON(
                    f"nested more than {MAX_DEPTH} deep at character {token.start()}"
                )
        elif "\\u" in found:
            _check_escapes(found, at=token.start())


def _check_escapes(string: str, *, at: int) -> None:
    try:
        json.loads(string, strict=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise AmbiguousJSON(f"half a character in the text at character {at}") from error
    except ValueError:
        pass  # whoever reads all of it says what is wrong


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise AmbiguousJSON(f"{twice!r} is given twice")
    return document


def _refuse(name: str) -> NoReturn:
    raise AmbiguousJSON(f"{name} is no JSON")


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise AmbiguousJSON(f"a number has {len(digits)} digits, over {_MAX_DIGITS}")
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise AmbiguousJSON(f"{text[:20]} is more than a float holds")
    return value
