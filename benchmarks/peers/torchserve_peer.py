"""TorchServe, in the environment in which conformance is recorded, with the same PyTorch.

Started without its `torchserve` command, which only finds Java and the paths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from benchmarks.peers.environment import version_of
from benchmarks.peers.peer import MAX_BATCH_SIZE, Job, Peer, Variant
from benchmarks.peers.peer import Launch as PeerLaunch
from flambeau.torchserve.launch import Launch, environment_of, free_ports, properties_text
from flambeau.torchserve.upstream_environment import make_environment

DELAY_MS: Final = 2
DEFAULT_DELAY_MS: Final = 100  # `maxBatchDelay` of the management API and of a model's YAML

# as TorchServe's own, without the files of accesses and metrics
LOG4J: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <Console name="STDOUT"><PatternLayout pattern="%d{ISO8601} [%-5p] %t %c - %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="STDOUT"/></Root></Loggers>
</Configuration>
"""


def launch(job: Job) -> PeerLaunch:
    directory, archive = job.directory, job.prepared.torchserve_archive
    settings = {
        "defaultVersion": True,
        "marName": archive.name,
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": MAX_BATCH_SIZE,
        "maxBatchDelay": DELAY_MS if job.variant is Variant.TUNED else DEFAULT_DELAY_MS,
        "responseTimeout": 120,
    }
    of_launch = Launch(
        store=archive.parent,
        models=(f"model={archive.name}",),
        properties={"models": json.dumps({"model": {"1.0": settings}})},
    )
    ports = free_ports(5)
    for name in ("tmp", "logs"):
        (directory / name).mkdir()
    config, log4j = directory / "config.properties", directory / "log4j2.xml"
    config.write_text(properties_text(of_launch, ports=ports, directory=directory))
    log4j.write_text(LOG4J)
    java, *rest = make_environment().server_command(temp=directory / "tmp")
    return PeerLaunch(
        command=(
            *(java, f"-Dlog4j.configurationFile={log4j.as_uri()}", *rest),
            *("-f", str(config), "-s", str(archive.parent), "-ncs"),
        ),
        url=f"http://127.0.0.1:{ports[0]}/predictions/model",
        environment=environment_of(of_launch, directory)
        | job.service_environment(delay_ms=DELAY_MS),
        management_url=f"http://127.0.0.1:{ports[1]}",
    )


def _interpreter() -> Path:
    return make_environment().python


PEER: Final = Peer(
    name="torchserve",
    title="TorchServe",
    settings=f"`maxBatchDelay` of {DELAY_MS} ms, no logs of accesses and metrics",
    interpreter=_interpreter,
    version=version_of("torchserve"),
    launch=launch,
)
