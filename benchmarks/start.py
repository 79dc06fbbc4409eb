"""How long it takes until the first right answer, and what one more worker costs.

python -m benchmarks.start
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks import archives, load, report_start
from benchmarks.figures_start import Start
from benchmarks.sampling import children
from benchmarks.server import serve

NUM_EXTRA_WORKERS = 2


def measure(directory: Path, *, num_rounds: int) -> Start:
    """Start a server so many times.

    Args:
        directory: An empty one, for the model store and the server's log.
        num_rounds: Each takes some seconds.
    """
    body = archives.resnet18(directory / "model_store" / "resnet18.mar")
    rounds = [_round(directory, body) for _ in range(num_rounds)]
    return Start(
        first_answer_s=statistics.median(found.first_answer_s for found in rounds),
        extra_worker_s=statistics.median(found.extra_worker_s for found in rounds),
        extra_worker_mb=statistics.median(found.extra_worker_mb for found in rounds),
        whole_mb=statistics.median(found.whole_mb for found in rounds),
    )


def _round(directory: Path, body: Path) -> Start:
    arguments = ("--model-store", "model_store", "--no-access-log")
    models = ("--models", "resnet18=resnet18.mar", "--default-workers-per-model", "1")
    began_at = time.monotonic()
    with serve(*arguments, *models, cwd=directory) as server:
        url = f"{server.inference_url}/predictions/resnet18"
        kind = {"content-type": "application/octet-stream"}
        httpx.post(url, content=body.read_bytes(), headers=kind, timeout=60).raise_for_status()
        first_answer_s = time.monotonic() - began_at
        memory_mb = [_memory_mb(server.process.pid, url, body)]
        ready_s: list[float] = []
        for count in range(2, 2 + NUM_EXTRA_WORKERS):
            asked_at = time.monotonic()
            server.scale("resnet18", num_workers=count)
            ready_s.append(time.monotonic() - asked_at)
            memory_mb.append(_memory_mb(server.process.pid, url, body))
    return Start(
        first_answer_s=first_answer_s,
        extra_worker_s=statistics.median(ready_s),
        extra_worker_mb=(memory_mb[-1] - memory_mb[0]) / NUM_EXTRA_WORKERS,
        whole_mb=memory_mb[0],
    )


def _memory_mb(pid: int, url: str, body: Path) -> float:
    """Of a process and all it has started, once every worker has had requests."""
    load.measure(url, body=body, connections=8, seconds=1)
    return _tree_bytes(pid) / 1e6


def _tree_bytes(pid: int) -> int:
    own = 0
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    for line in lines:
        if line.startswith("Pss:"):
            own = int(line.split()[1]) * 1024
    return own + sum(_tree_bytes(child) for child in children(pid))


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="flambeau-start-") as directory:
        print(report_start.render(measure(Path(directory), num_rounds=3)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
