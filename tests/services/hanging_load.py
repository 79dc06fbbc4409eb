"""Never finishes loading."""

from __future__ import annotations

import signal

from flambeau.codec import Row
from flambeau.context import Context


def handle(data: list[Row] | None, context: Context) -> list[str]:
    while True:
        signal.pause()
