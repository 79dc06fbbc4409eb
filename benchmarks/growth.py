"""Does it get slower than it must, as connections, bodies, models or workers become more?

    python -m benchmarks.growth            # prints the tables

Everything else stays equal: the rate of requests within a series, one model of one worker, and the
machine. Latency is taken at a rate well below what the server can do; see `open_loop.py`.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import archives, load, open_loop, report_growth
from benchmarks.figures_growth import Growth, Point
from benchmarks.server import serve

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.server import Server

BATCH_SIZE = 16
SHARE_OF_FULL = 0.25  # of what the server can do over one connection: the rate for latencies
BODY_RATE = 8.0  # 128 MB/s at 16 MiB
MAX_BODY_BYTES = 17 * 2**20
MAX_WAITING = 4096  # more than there are clients: none is refused
MAX_FILES = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What to go through; each list ascends."""

    connections: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    bodies: tuple[int, ...] = tuple(2**power for power in range(10, 25, 2))
    models: tuple[int, ...] = (1, 10, 100)
    workers: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 2.0


QUICK = Sizes(
    connections=(1, 16, 256), bodies=(2**10, 2**20), models=(1, 20), workers=(1, 2), seconds=1.0
)


def measure(directory: Path, sizes: Sizes) -> Growth:
    """Go through all sizes with two servers.

    Args:
        directory: An empty one, for the model store and bodies.
        sizes: Which.
    """
    store = directory / "model_store"
    lenet = archives.lenet(store / "lenet.mar")
    archives.length(store)
    with _many_files():
        with _serving(directory) as server:
            server.register("lenet.mar", num_workers=1, batch_size=BATCH_SIZE)
            connections = _connections(server, lenet, sizes)
            workers = _workers(server, lenet, sizes)
        with _serving(directory) as server:
            server.register("length-1.0.mar", num_workers=1, batch_size=1)
            bodies = _bodies(server, directory, sizes)
            models = _models(server, directory, sizes)
    return Growth(connections=connections, bodies=bodies, models=models, workers=workers)


def _connections(server: Server, body: Path, sizes: Sizes) -> list[Point]:
    url = f"{server.inference_url}/predictions/lenet"
    rate = _rate(url, body, sizes)
    points: list[Point] = []
    for count in sizes.connections:
        loaded = load.measure(url, body=body, connections=count, seconds=sizes.seconds)
        latency = open_loop.measure(
            url, body=body, rate=rate, seconds=sizes.seconds, connections=count
        )
        idle = open_loop.measure(
            url, body=body, rate=rate, seconds=sizes.seconds, connections=8, num_idle=count
        )
        points.append(
            Point(
                size=count,
                latency=latency,
                requests_per_s=loaded.requests_per_s,
                num_errors=loaded.num_errors,
                with_idle=idle,
            )
        )
    return points


def _workers(server: Server, body: Path, sizes: Sizes) -> list[Point]:
    url = f"{server.inference_url}/predictions/lenet"
    rate = _rate(url, body, sizes)
    points: list[Point] = []
    for count in sizes.workers:
        server.scale("lenet", num_workers=count)
        points.append(_point(count, url, body, rate=rate, seconds=sizes.seconds, connections=64))
    return points


def _bodies(server: Server, directory: Path, sizes: Sizes) -> list[Point]:
    """One connection, so that bodies do not wait for one another."""
    url = f"{server.inference_url}/predictions/length"
    points: list[Point] = []
    for num_bytes in sizes.bodies:
        body = directory / "body"
        body.write_bytes(bytes(num_bytes))
        latency = open_loop.measure(
            url, body=body, rate=BODY_RATE, seconds=sizes.seconds, connections=1
        )
        points.append(Point(size=num_bytes, latency=latency))
    return points


def _models(server: Server, directory: Path, sizes: Sizes) -> list[Point]:
    """One model is asked; the others are registered and have no workers."""
    url = f"{server.inference_url}/predictions/length"
    body = directory / "small"
    body.write_bytes(bytes(1024))
    rate = _rate(url, body, sizes)
    points: list[Point] = []
    num_models = 1
    for count in sizes.models:
        for number in range(num_models, count):
            name = f"length-{number}"
            server.register("length-1.0.mar", num_workers=0, batch_size=1, name=name)
        num_models = count
        points.append(_point(count, url, body, rate=rate, seconds=sizes.seconds, connections=16))
    return points


def _point(
    size: int, url: str, body: Path, *, rate: float, seconds: float, connections: int
) -> Point:
    loaded = load.measure(url, body=body, connections=connections, seconds=seconds)
    latency = open_loop.measure(url, body=body, rate=rate, seconds=seconds, connections=16)
    return Point(
        size=size,
        latency=latency,
        requests_per_s=loaded.requests_per_s,
        num_errors=loaded.num_errors,
    )


def _rate(url: str, body: Path, sizes: Sizes) -> float:
    load.measure(url, body=body, connections=16, seconds=1)  # warms up
    full = load.measure(url, body=body, connections=1, seconds=sizes.seconds)
    return max(1.0, full.requests_per_s * SHARE_OF_FULL)


@contextmanager
def _serving(directory: Path) -> Generator[Server]:
    arguments = ("--model-store", "model_store", "--no-access-log")
    limits = ("--max-request-bytes", str(MAX_BODY_BYTES), "--job-queue-size", str(MAX_WAITING))
    with serve(*arguments, *limits, cwd=directory) as server:
        yield server


@contextmanager
def _many_files() -> Generator[None]:
    """Let this process and those it starts have as many connections as are measured."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="flambeau-growth-") as directory:
        growth = measure(Path(directory), QUICK if "--quick" in sys.argv else Sizes())
    print(report_growth.render(growth))
    return 0


if __name__ == "__main__":
    sys.exit(main())
