"""The second instance to load ends the first, once; then all is well.

A file named by `handler.first` in the model's YAML holds the first one's process id.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil

from flambeau.codec import Row
from flambeau.context import Context


class Handler:
    def initialize(self, context: Context) -> None:
        path = Path(context.model_yaml_config["handler"]["first"])
        try:
            with path.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            _end_once(path)

    def handle(self, data: list[Row] | None, context: Context) -> list[Any]:
        del context
        return ["fine"] * len(data or [])


def _end_once(path: Path) -> None:
    try:
        path.with_name("ended").touch(exist_ok=False)
    except FileExistsError:
        return  # the one that was started instead
    first = psutil.Process(int(path.read_text()))
    first.kill()
    while first.is_running():  # until the front has noticed
        time.sleep(0.005)
