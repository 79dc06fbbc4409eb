"""Answers when it is let: once the file exists that the request calls its gate.

A request with a `name` and a `gate` leaves a file `<name>.started` beside the gate, so that tests
know where it is; one without a gate is answered at once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flambeau.codec import Row
from flambeau.context import Context


def handle(data: list[Row] | None, context: Context) -> list[dict[str, Any]]:
    rows = data or []
    for row in rows:
        _pass_gate(row["body"])
    return [
        {
            "version": context.manifest["model"]["modelVersion"],
            "pid": os.getpid(),
            "batch_size": len(rows),
        }
        for _ in rows
    ]


def _pass_gate(order: dict[str, str]) -> None:
    if "gate" not in order:
        return
    gate = Path(order["gate"])
    gate.with_name(f"{order['name']}.started").touch()
    while not gate.exists():
        time.sleep(0.005)
