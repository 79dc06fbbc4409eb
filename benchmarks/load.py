"""Requests as fast as they are answered, over a fixed number of connections, made by `wrk`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = Path(__file__).with_name("load.lua")


class LoadGeneratorMissingError(RuntimeError):
    """There is no `wrk` on this machine."""


def find_wrk() -> str:
    """Where `wrk` is.

    Raises:
        LoadGeneratorMissingError: Nowhere.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadGeneratorMissingError(
            "wrk is not installed; on Debian and Ubuntu: apt-get install wrk"
        )
    return path


def measure(
    url: str,
    *,
    body: Path | Sequence[Path],
    connections: int,
    seconds: float,
    content_type: str = "application/octet-stream",
    to_last_answer: bool = False,
) -> Load:
    """Post `body` to `url` over so many connections, from one thread.

    Args:
        url: Of the server.
        body: A file; several are sent in turn.
        connections: Each sends its next request when the answer is there.
        seconds: How long; `wrk` takes whole ones, 1 or more.
        content_type: Of the bodies.
        to_last_answer: Count the time up to the last answer, and no further: else a batch that is
            not answered at the end is lost, which matters when there are few.

    Raises:
        LoadGeneratorMissingError: There is no `wrk`.
        CalledProcessError: It failed.
    """
    command = [
        *(find_wrk(), "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{max(1, round(seconds))}s", "--timeout", "10s"),
        *("--script", str(SCRIPT), url),
    ]
    bodies = [body] if isinstance(body, Path) else body
    named = {"BODY_FILES": "\n".join(map(str, bodies)), "CONTENT_TYPE": content_type}
    if to_last_answer:
        named["TO_LAST_ANSWER"] = "1"
    done = subprocess.run(
        command,
        env={**os.environ, **named},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return Load(
        connections=connections,
        num_requests=found["num_requests"],
        num_errors=found["num_errors"],
        requests_per_s=found["num_requests"] / found["duration_us"] * 1e6,
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
    )
