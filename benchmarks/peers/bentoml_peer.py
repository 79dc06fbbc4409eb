"""BentoML: one service with adaptive batching, which sets its own delay."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.environment import made_from, version_of
from benchmarks.peers.peer import SERVICES, Job, Launch, Peer
from flambeau.torchserve.launch import free_ports


def launch(job: Job) -> Launch:
    [port] = free_ports(1)
    return Launch(
        command=(
            *(str(job.python.with_name("bentoml")), "serve", "bentoml_service:Model"),
            *("--host", "127.0.0.1", "--port", str(port), "--working-dir", str(SERVICES)),
        ),
        url=f"http://127.0.0.1:{port}/predict",
        environment=job.service_environment(delay_ms=None)
        | {"BENTOML_HOME": str(job.directory), "BENTOML_DO_NOT_TRACK": "true"},
    )


PEER: Final = Peer(
    name="bentoml",
    title="BentoML",
    settings="adaptive batching as it comes, no access log",
    interpreter=made_from("bentoml"),
    version=version_of("bentoml"),
    launch=launch,
)
