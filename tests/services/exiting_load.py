"""Ends its process while it loads, after a last word."""

from __future__ import annotations

import os

from flambeau.codec import Row
from flambeau.context import Context


def handle(data: list[Row] | None, context: Context) -> list[str]:
    print("no licence found", flush=True)
    os._exit(3)
