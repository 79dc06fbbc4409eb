"""Flambeau itself, as `flambeau serve` runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import flambeau
from benchmarks.peers.peer import MAX_BATCH_SIZE, NUM_THREADS, Job, Launch, Peer, Variant
from benchmarks.server import FLAMBEAU, Addresses


def launch(job: Job) -> Launch:
    addresses = Addresses.unused()
    archive = job.prepared.flambeau_archive
    settings: dict[str, object] = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": MAX_BATCH_SIZE,
        "threadsPerWorker": NUM_THREADS,
    }
    if job.variant is Variant.AUTO:
        settings["optimize"] = "auto"
    return Launch(
        command=(
            *(str(FLAMBEAU), "serve", "--no-access-log", "--model-store", str(archive.parent)),
            *("--models", f"model={archive.name}"),
            *("--model-settings", json.dumps({"model": {"1.0": settings}})),
        ),
        url=f"http://{addresses.inference}/predictions/model",
        environment=addresses.as_environment(),
        management_url=f"http://{addresses.management}",
    )


PEER: Final = Peer(
    name="flambeau",
    title="Flambeau",
    settings="defaults, and no access log; a batch is held only while that pays",
    interpreter=lambda: Path(sys.executable),
    version=lambda _: flambeau.__version__,
    launch=launch,
)
