"""A small function-style handler: says which model and version it is."""

from __future__ import annotations

from typing import Any

from ts.context import Context


def handle(data: list[Any] | None, context: Context) -> list[str] | None:
    if data is None:  # the call at loading
        return None
    model = context.manifest["model"]
    return [f"{model.get('modelName')} {model.get('modelVersion')}"] * len(data)


def other_entry(data: list[Any] | None, context: Context) -> list[str] | None:
    return None if data is None else ["the other entry"] * len(data)
