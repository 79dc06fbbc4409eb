"""Prints what the request says, as often as it says."""

from __future__ import annotations

import sys

from flambeau.codec import Row
from flambeau.context import Context


def handle(data: list[Row] | None, context: Context) -> list[str]:
    for row in data or []:
        order = row["body"]
        stream = sys.stderr if order.get("stream") == "stderr" else sys.stdout
        for _ in range(order.get("times", 1)):
            stream.write(order["text"])
        stream.flush()
    return ["said" for _ in data or []]
