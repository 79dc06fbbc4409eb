"""Reads the corpora of hostile input in `tests/corpora`.

Each line of a file is a JSON object: the `name` of a case, what is sent, and what must come of it.
Bytes are text whose characters are 0 to 255; `["x", 1000]` in a list of them is a thousand times
the same, and `$E` the address of a model, as either lane takes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[1] / "corpora"


def read_corpus(name: str) -> dict[str, dict[str, Any]]:
    """The cases of `tests/corpora/NAME.jsonl` by their names, which must differ."""
    lines = (DIRECTORY / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    found = {case["name"]: case for case in cases}
    assert len(found) == len(cases)
    return found


def to_bytes(parts: Sequence[str | list[Any]], *, address: str = "") -> bytes:
    """The bytes that a case sends."""
    whole = (part if isinstance(part, str) else part[0] * part[1] for part in parts)
    return "".join(whole).replace("$E", address).encode("latin-1")
