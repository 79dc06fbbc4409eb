"""Where the time of one request goes, stage by stage, summing to the measured whole.

    python -m benchmarks.budget            # prints the table, writes flame graphs to results/

How much CPU time a request costs is counted by the kernel while nobody samples; how it splits into
stages is sampled afterwards, under the same load. `stages.py` tells the stages apart.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import archives, load, report_budget
from benchmarks.figures import HERE
from benchmarks.figures_budget import Budget, Part
from benchmarks.sampling import cpu_time, idle_s, read_stacks, sampling
from benchmarks.server import serve
from benchmarks.stages import Stage, stage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.figures import Load
    from benchmarks.sampling import CpuTime, Sampled

CONNECTIONS = (1, 64)
BATCH_SIZE = 16
WARM_UP_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """A window of load, and what it cost by process; the load generator has one thread."""

    load: Load
    cpu: Mapping[str, CpuTime]
    client_s: float
    idle_s: float


def measure(directory: Path, *, seconds: float) -> list[Budget]:
    """Serve LeNet from one worker and take its budget at each number of connections.

    Args:
        directory: An empty one, for the model store; the stacks and a flame graph of each process
            stay there.
        seconds: Of each of the two windows per number of connections.

    Raises:
        SamplerError: py-spy is missing, or may not look into our own processes.
    """
    store = directory / "model_store"
    body = archives.lenet(store / "lenet.mar")
    flags = ("--model-store", "model_store", "--no-access-log", "--no-supervisor")
    with serve(*flags, cwd=directory) as server:
        server.register("lenet.mar", num_workers=1, batch_size=BATCH_SIZE)
        url = f"{server.inference_url}/predictions/lenet"
        (worker,) = server.worker_pids("lenet")
        pids = {"front": server.process.pid, "worker": worker}
        budgets: list[Budget] = []
        for connections in CONNECTIONS:
            load.measure(url, body=body, connections=connections, seconds=WARM_UP_S)
            used = _use(url, body, pids, connections=connections, seconds=seconds)
            with ExitStack() as samplers:
                for name, pid in pids.items():
                    samplers.enter_context(sampling(pid, directory / f"{name}-{connections}.txt"))
                load.measure(url, body=body, connections=connections, seconds=seconds)
            stacks = {name: read_stacks(directory / f"{name}-{connections}.txt") for name in pids}
            budgets.append(split(used, stacks, num_cores=1 if connections == 1 else _num_cores()))
        with ExitStack() as samplers:
            for name, pid in pids.items():
                graph = directory / f"flame-{name}.svg"
                samplers.enter_context(sampling(pid, graph, style="flamegraph"))
            load.measure(url, body=body, connections=max(CONNECTIONS), seconds=seconds / 2)
    return budgets


def keep(directory: Path) -> None:
    """Copy what `measure` has left to `results/`, for whoever asks which function it is."""
    for path in (*directory.glob("*.svg"), *directory.glob("*.txt")):
        shutil.copy(path, HERE / path.name)


def split(used: Used, stacks: Mapping[str, Sequence[Sampled]], *, num_cores: int) -> Budget:
    """Divide what was used among the stages.

    Args:
        used: What the window without a sampler cost.
        stacks: Of each process, from the window with one.
        num_cores: Whose time the whole is. With one connection everything happens in turn, so that
            one core's time is the wait of the client; helper threads, which run beside, are left
            out then. With many, it is the time of all cores for one request.
    """
    num_requests = used.load.num_requests
    parts: list[Part] = []
    for process, cpu in used.cpu.items():
        counts: Counter[Stage] = Counter()
        for sampled in stacks[process]:
            counts[stage_of(sampled.stack)] += sampled.count
        main_us = cpu.main_s / num_requests * 1e6
        parts += [
            Part(process=process, stage=stage, us=main_us * counts[stage] / counts.total())
            for stage in Stage
            if counts[stage]
        ]
        if num_cores > 1:
            others_us = cpu.others_s / num_requests * 1e6
            parts.append(Part(process=process, stage=Stage.HELPERS, us=others_us))
    return Budget(
        connections=used.load.connections,
        requests_per_s=used.load.requests_per_s,
        num_cores=num_cores,
        whole_us=num_cores / used.load.requests_per_s * 1e6,
        parts=parts,
        client_us=used.client_s / num_requests * 1e6,
        idle_us=None if num_cores == 1 else used.idle_s / num_requests * 1e6,
        num_samples={name: sum(s.count for s in found) for name, found in stacks.items()},
    )


def _use(
    url: str, body: Path, pids: Mapping[str, int], *, connections: int, seconds: float
) -> Used:
    before = {name: cpu_time(pid) for name, pid in pids.items()}
    client_s, idle_before_s = _children_s(), idle_s()
    loaded = load.measure(url, body=body, connections=connections, seconds=seconds)
    return Used(
        load=loaded,
        cpu={name: cpu_time(pid) - before[name] for name, pid in pids.items()},
        client_s=_children_s() - client_s,
        idle_s=idle_s() - idle_before_s,
    )


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="flambeau-budget-") as directory:
        budgets = measure(Path(directory), seconds=8.0)
        keep(Path(directory))
    print(report_budget.render(budgets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
