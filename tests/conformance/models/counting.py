"""A class-style handler with state, for requests that belong to a sequence."""

from __future__ import annotations

from typing import Any

from ts.context import Context


class Counting:
    def initialize(self, context: Context) -> None:
        self.counts: dict[str, int] = {}
        self.context = context

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        answers: list[Any] = []
        for index, _ in enumerate(data):
            name = context.get_sequence_id(index)
            if context.get_request_header(index, context.header_key_sequence_start):
                self.counts[name] = 0
            self.counts[name] = self.counts.get(name, 0) + 1
            answers.append({"count": self.counts[name], "together": len(data)})
        return answers
