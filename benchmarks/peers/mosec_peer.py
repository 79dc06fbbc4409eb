"""mosec: a front written in Rust, workers in Python."""

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
        command=(
            *(str(job.python), str(SERVICES / "mosec_service.py")),
            *("--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
            *("--path", str(job.directory / "sockets"), "--timeout", "10000"),
        ),
        url=f"http://127.0.0.1:{port}/inference",
        environment=job.service_environment(delay_ms=delay_ms),
    )


PEER: Final = Peer(
    name="mosec",
    title="mosec",
    settings=f"`max_wait_time` of {DELAY_MS} ms, one stage",
    interpreter=made_from("mosec"),
    version=version_of("mosec"),
    launch=launch,
)
