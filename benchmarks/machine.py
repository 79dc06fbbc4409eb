"""Which machine and which versions a measurement is from."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures import Machine


def describe() -> Machine:
    """This machine, on Linux."""
    packages = ("flambeau", "torch", "fastapi", "uvicorn", "httptools", "uvloop", "msgspec")
    versions = {"Python": platform.python_version()} | {p: version(p) for p in packages}
    return Machine(
        cpu=_cpu(),
        num_cpus=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        versions=versions | {"wrk": _wrk()},
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _wrk() -> str:
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    words = (said.stdout + said.stderr).split()
    return words[1] if len(words) > 1 and words[0] == "wrk" else "unknown"
