"""A class-style handler for batches: says how many it got together, and fails all on request."""

from __future__ import annotations

from typing import Any

from ts.context import Context
from ts.utils.util import PredictionException


class Batched:
    def initialize(self, context: Context) -> None:
        self.context = context

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        bodies = [row["body"] for row in data]
        results: list[Any] = []
        for index, body in enumerate(bodies):
            word = body if isinstance(body, str) else bytes(body).decode()
            if word == "raise":
                raise ValueError("one of them is bad")
            if word == "refuse":
                raise PredictionException("one of them is refused", 422)
            if word == "short":
                return results
            if word == "teapot":
                context.set_response_status(418, "teapot", index)
                context.set_response_header(index, "x-only-mine", "yes")
            results.append({"word": word, "together": len(bodies)})
        return results
