"""Returns what a handler must not, or may, as the request says; for a batch size of 1."""

from __future__ import annotations

from typing import Any

import torch

from flambeau.codec import Row
from flambeau.context import Context
from flambeau.errors import InvalidInput


def handle(data: list[Row] | None, context: Context) -> Any:  # noqa: ANN401  # that is the point
    if data is None:
        return None
    (row,) = data
    order: dict[str, Any] = row["body"]
    match order["return"]:
        case "an exception":
            raise ValueError("a secret of the model")
        case "no memory":
            raise MemoryError
        case "a status":
            context.set_response_status(order["code"], "As It Wishes", 0)
        case "headers":
            for name, value in order["headers"].items():
                context.set_response_header(0, name, value)
        case _:
            return _returned(order)
    return [order]


def _returned(order: dict[str, Any]) -> Any:  # noqa: ANN401  # as above
    values: dict[str, Any] = {
        "no list": "no list",
        "too many": [1, 2],
        "an object": [object()],
        "invalid": [InvalidInput(order.get("message", ""))],
        "text": [order.get("text")],
        "bytes": [b"\x00\xff"],
        "tensor": [torch.arange(3)],
        "a long text": ["x" * order.get("length", 0)],
    }
    return values[order["return"]]
