"""Answers with what reached it."""

from __future__ import annotations

import os
from typing import Any

from flambeau.codec import Row
from flambeau.context import Context


def handle(data: list[Row] | None, context: Context) -> list[dict[str, Any]]:
    return [
        {
            "model": context.model_name,
            "version": context.manifest["model"]["modelVersion"],
            "pid": os.getpid(),
            "request_id": context.get_request_id(idx),
            "inputs": {name: _shown(value) for name, value in row.items()},
            "headers": context.get_all_request_header(idx),
            "tenant": context.get_request_header(idx, "X-Tenant"),
        }
        for idx, row in enumerate(data or [])
    ]


def _shown(value: object) -> list[object]:
    """An input's type and content."""
    content = value.decode("latin-1") if isinstance(value, bytearray) else value
    return [type(value).__name__, content]
