"""A handler behind service envelopes: answers with the inputs that the envelope made."""

from __future__ import annotations

from typing import Any

import numpy as np
from ts.context import Context


class Instances:
    def initialize(self, context: Context) -> None:
        self.context = context

    def handle(self, data: list[Any], context: Context) -> list[object]:
        names = getattr(context, "input_names", None)
        return [_answer(row, names) for row in data]


def _answer(row: object, names: object) -> object:
    if isinstance(row, (bytes, bytearray)):
        return {"bytes": bytes(row).hex()}
    if isinstance(row, np.ndarray):
        return row.tolist()
    return row if names is not None else {"got": row, "type": type(row).__name__}
