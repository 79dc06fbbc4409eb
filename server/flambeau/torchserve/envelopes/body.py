"""`body`: the handler gets the values alone, not rows of named inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flambeau.torchserve.envelopes.base import BaseEnvelope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.codec import Row


class BodyEnvelope(BaseEnvelope):
    """Each request's `data`, or else its `body`; answers are what the handler returns."""

    def parse_input(self, data: Sequence[Row]) -> list[Any]:
        return [row.get("data") or row.get("body") for row in data]

    def format_output(self, data: Any) -> Any:  # noqa: ANN401  # what the handler gives
        return data
