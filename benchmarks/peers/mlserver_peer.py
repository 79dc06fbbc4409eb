"""MLServer: FastAPI and the model in one process."""

from __future__ import annotations

import json
from typing import Final

from benchmarks.peers.environment import made_from, version_of
from benchmarks.peers.peer import MAX_BATCH_SIZE, SERVICES, Job, Launch, Peer
from flambeau.torchserve.launch import free_ports

DELAY_MS: Final = 2


def launch(job: Job) -> Launch:
    http, grpc, metrics = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
        "gzip_enabled": False,
        "environments_dir": str(job.directory),
    }
    model = {
        "name": "model",
        "implementation": "mlserver_service.Model",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": DELAY_MS / 1000,
    }
    (job.directory / "settings.json").write_text(json.dumps(settings))
    (job.directory / "model-settings.json").write_text(json.dumps(model))
    return Launch(
        command=(str(job.python.with_name("mlserver")), "start", str(job.directory)),
        url=f"http://127.0.0.1:{http}/predict",
        environment=job.service_environment(delay_ms=DELAY_MS) | {"PYTHONPATH": str(SERVICES)},
    )


PEER: Final = Peer(
    name="mlserver",
    title="MLServer",
    settings=f"`max_batch_time` of {DELAY_MS} ms, `parallel_workers` of 0, no debug, no gzip",
    interpreter=made_from("mlserver"),
    version=version_of("mlserver"),
    launch=launch,
)
