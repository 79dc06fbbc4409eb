"""A function-style handler that answers with what it was given: names, types and values."""

from __future__ import annotations

from typing import Any

from ts.context import Context


def handle(data: list[dict[str, Any]] | None, context: Context) -> list[object] | None:
    if data is None:  # the call at loading
        return None
    return [_shown(row, context, index) for index, row in enumerate(data)]


def _shown(row: dict[str, Any], context: Context, index: int) -> object:
    headers = context.get_all_request_header(index)
    return {
        "inputs": {name: [type(value).__name__, _plain(value)] for name, value in row.items()},
        "types": {name: headers.get(name) for name in row},
        "url_path": headers.get("url_path"),
        "explain": headers.get("explain"),
    }


def _plain(value: object) -> object:
    return bytes(value).hex() if isinstance(value, (bytes, bytearray)) else value
