"""Which devices workers are spread over, found without importing torch in the front."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

_DRIVER_LIST = Path("/proc/driver/nvidia/gpus")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds and their period, or `max`


def count_gpus(environment: Mapping[str, str] = os.environ) -> int:
    """How many CUDA devices a worker will see; 0 without NVIDIA's driver.

    Honours `CUDA_VISIBLE_DEVICES`; otherwise asks `nvidia-smi`, or the driver's list in /proc.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in {"", "-1"}])
    command = which("nvidia-smi")
    if command is not None:
        listing = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=30, check=False
        )
        return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return len(list(_DRIVER_LIST.iterdir())) if _DRIVER_LIST.is_dir() else 0


def count_cpus(quota_file: Path = _CPU_QUOTA) -> int:
    """How many CPUs this process may use: its affinity, or its container's quota if less."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    num_cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(num_cpus, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such file, or `max`
        return num_cpus


@dataclass(slots=True)
class DeviceCycle:
    """Deals out devices in turn: `cuda:0`, `cuda:1`, ..., or always `cpu` without a GPU."""

    num_gpus: int
    _next_gpu: int = field(default=0, init=False)

    def take(self) -> str:
        """The device for the next worker."""
        if self.num_gpus == 0:
            return "cpu"
        device = f"cuda:{self._next_gpu}"
        self._next_gpu = (self._next_gpu + 1) % self.num_gpus
        return device
