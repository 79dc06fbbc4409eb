"""Flambeau itself, as `flambeau serve` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import flambeau
from benchmarks.peers.peer import MAX_BATCH_SIZE, NUM_THREADS, Job, Launch, Peer, Variant
from benchmarks.peers.work import Prepared
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
        environment=addresses.as_environment()
        | {"FLAMBEAU_STATE_FILE": "", "FLAMBEAU_SUPERVISOR": "false"},
        management_url=f"http://{addresses.management}",
    )


def tune(prepared: Prepared, variant: Variant) -> None:
    """Find the model's fastest form, compiled ones included; later starts know it.

    Raises:
        CalledProcessError: It cannot be optimised; it has said why.
    """
    level = "auto" if variant is Variant.AUTO else "safe"
    subprocess.run(
        [
            *(str(FLAMBEAU), "optimize", str(prepared.flambeau_archive), "--device", "cpu"),
            *("--level", level, "--max-batch-size", str(MAX_BATCH_SIZE)),
        ],
        stdout=sys.stderr,
        check=True,
    )


PEER: Final = Peer(
    name="flambeau",
    title="Flambeau",
    settings="defaults, and no access log; a batch is held only while that pays; `flambeau "
    "optimize` once per model before",
    interpreter=lambda: Path(sys.executable),
    version=lambda _: flambeau.__version__,
    launch=launch,
    tune=tune,
)
