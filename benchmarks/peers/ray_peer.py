"""Ray Serve: a proxy, a controller and one replica on a local Ray."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.environment import made_from, version_of
from benchmarks.peers.peer import SERVICES, Job, Launch, Peer, Variant
from flambeau.torchserve.launch import free_ports

DELAY_MS: Final = 2


def launch(job: Job) -> Launch:
    [port] = free_ports(1)
    delay_ms = DELAY_MS if job.variant is Variant.TUNED else None
    return Launch(
        command=(str(job.python), str(SERVICES / "ray_service.py")),
        url=f"http://127.0.0.1:{port}/",
        environment=job.service_environment(delay_ms=delay_ms)
        | {
            "BENCH_PORT": str(port),
            "BENCH_RAY_TEMP": str(job.directory),
            "PYTHONPATH": str(SERVICES),  # for the replica
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )


PEER: Final = Peer(
    name="ray",
    title="Ray Serve",
    settings=f"`batch_wait_timeout_s` of {DELAY_MS} ms, `RAY_SERVE_THROUGHPUT_OPTIMIZED`, no "
    "access log",
    interpreter=made_from("ray"),
    version=version_of("ray"),
    launch=launch,
)
