"""Cannot load its model."""

from __future__ import annotations

from flambeau.codec import Row
from flambeau.context import Context


def handle(data: list[Row] | None, context: Context) -> list[str]:
    raise RuntimeError("the weights went missing")
