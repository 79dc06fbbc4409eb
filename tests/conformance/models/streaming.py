"""A function-style handler that sends parts of its answer before the last one."""

from __future__ import annotations

from typing import Any

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data: list[dict[str, Any]] | None, context: Context) -> list[Any] | None:
    if data is None:  # the call at loading
        return None
    order = data[0]["body"]
    for number in range(order.get("parts", 0)):
        part = order.get("part", f"part {number}, ")
        send_intermediate_predict_response(
            [part] * len(data), context.request_ids, "Intermediate", 200, context
        )
        if order.get("raise_after") == number:
            raise ValueError("in the middle")
    return [order.get("last", "the end")] * len(data)
