"""Java's properties syntax, which TorchServe's configuration files are written in.

`key=value`, `key: value` or `key value`; `#` and `!` begin comments; a backslash at a line's end
continues it, and before anything else escapes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANKS = " \t\f"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_NAMED = {value: f"\\{key}" for key, value in _ESCAPES.items()}


def decode(content: bytes) -> str:
    """A file's text: UTF-8, or Latin-1 as Java once had it where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def parse(text: str) -> dict[str, str]:
    r"""Every key and its value; the last one of a repeated key counts.

    Raises:
        ValueError: A `\u` escape that is not four hexadecimal digits; the text names it.
    """
    properties: dict[str, str] = {}
    for line in _logical_lines(text):
        end = _end_of_key(line)
        rest = line[end:].lstrip(_BLANKS)
        if rest[:1] in {"=", ":"}:
            rest = rest[1:].lstrip(_BLANKS)
        properties[_unescape(line[:end])] = _unescape(rest)
    return properties


def render(properties: Mapping[str, str]) -> str:
    """The text that `parse` reads back; ASCII, one `key=value` per line."""
    return "".join(
        f"{_escape(key, blanks=True)}={_escape(value, blanks=False)}\n"
        for key, value in properties.items()
    )


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments, blank ones and leading blanks, and with their continuations."""
    waiting = ""
    continued = False
    for raw in _LINE_END.split(text):
        line = raw.lstrip(_BLANKS)
        if not continued and (not line or line[0] in "#!"):
            continue
        num_backslashes = len(line) - len(line.rstrip("\\"))
        continued = num_backslashes % 2 == 1
        waiting += line[:-1] if continued else line
        if not continued:
            yield waiting
            waiting = ""
    if waiting:
        yield waiting


def _end_of_key(line: str) -> int:
    """Where the first `=`, `:` or blank is that no backslash escapes."""
    place = 0
    while place < len(line) and line[place] not in "=:" + _BLANKS:
        place += 2 if line[place] == "\\" else 1
    return min(place, len(line))


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    pieces: list[str] = []
    place = 0
    while place < len(text):
        letter = text[place]
        place += 1
        if letter == "\\":
            letter = text[place : place + 1]
            place += 1
            if letter == "u":
                digits = text[place : place + 4]
                if not re.fullmatch(r"[0-9A-Fa-f]{4}", digits):
                    raise ValueError(f"\\u{digits} is no escape; give four hexadecimal digits")
                letter = chr(int(digits, 16))
                place += 4
            else:
                letter = _ESCAPES.get(letter, letter)
        pieces.append(letter)
    # Java writes what is beyond U+FFFF as two escapes
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escape(text: str, *, blanks: bool) -> str:
    """`text` as a key, or as a value, whose blanks need escaping only at its beginning."""
    pieces: list[str] = []
    for place, letter in enumerate(text):
        if letter in _NAMED:
            pieces.append(_NAMED[letter])
        elif letter in "\\=:#!" or (letter == " " and (blanks or place == 0)):
            pieces.append(f"\\{letter}")
        elif " " <= letter <= "~":
            pieces.append(letter)
        else:
            units = letter.encode("utf-16-be", "surrogatepass")
            pieces += [f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)]
    return "".join(pieces)
