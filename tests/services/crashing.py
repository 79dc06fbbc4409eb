"""Ends its own process when a request says so."""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import Any

from flambeau.codec import Row
from flambeau.context import Context


def handle(data: list[Row] | None, context: Context) -> list[dict[str, Any]]:
    for row in data or []:
        match row["body"]["do"]:
            case "exit":
                os._exit(3)
            case "segfault":
                ctypes.string_at(0)
            case "leave a child":  # that holds the worker's stdout, in a session of its own
                subprocess.Popen(["sleep", "600"], start_new_session=True)
            case _:
                pass
    return [{"pid": os.getpid()} for _ in data or []]
