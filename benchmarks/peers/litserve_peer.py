"""LitServe: FastAPI in front of a worker process."""

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
        command=(str(job.python), str(SERVICES / "litserve_service.py")),
        url=f"http://127.0.0.1:{port}/predict",
        environment=job.service_environment(delay_ms=delay_ms) | {"BENCH_PORT": str(port)},
    )


PEER: Final = Peer(
    name="litserve",
    title="LitServe",
    settings=f"`batch_timeout` of {DELAY_MS} ms, `fast_queue`, no access log",
    interpreter=made_from("litserve"),
    version=version_of("litserve"),
    launch=launch,
)
