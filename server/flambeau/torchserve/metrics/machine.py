"""What `ts.metrics.system_metrics` and `ts.metrics.process_memory_metric` are asked for.

The server samples the machine itself (`flambeau.system_sampler`) and calls none of this.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TextIO

from flambeau.handler_metric import Dimension
from flambeau.metrics_config import SERVER_METRICS
from flambeau.system_metrics import SystemMetrics
from flambeau.torchserve.metrics.old import Metric

_UNITS = {spec.name: spec.unit for spec in SERVER_METRICS}


def read_metrics() -> list[Metric]:
    """The machine's state as metrics of TorchServe's."""
    return [
        Metric(
            value.name,
            value.value,
            _UNITS[value.name],
            [
                Dimension("Level", "Host"),
                *([] if value.device is None else [Dimension("DeviceId", value.device)]),
            ],
        )
        for value in SystemMetrics().read()
    ]


def collect_all(mod: object = None, num_of_gpu: int = 0) -> None:  # noqa: ARG001  # TorchServe's
    """Log the machine's state, one metric a line."""
    for metric in read_metrics():
        logging.getLogger(__name__).info("%s", metric)


def get_cpu_usage(pid: str | int) -> int:
    """The bytes of memory a process has, in spite of the name; 0 when there is no such process."""
    try:
        pages = int(Path(f"/proc/{int(pid)}/statm").read_text("ascii").split()[1])
    except (OSError, ValueError):
        logging.getLogger(__name__).warning("there is no process %s", pid)
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def check_process_mem_usage(stdin: TextIO) -> None:
    """Read ids separated by commas from a line, log `ID:BYTES` for each."""
    for pid in stdin.readline().strip().split(","):
        if pid:
            logging.getLogger(__name__).info("%s:%d", pid, get_cpu_usage(pid))
