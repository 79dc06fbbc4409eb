"""CPU, memory, disk and GPU use of the machine, read from the kernel and the driver.

Reading takes files in /proc and, with an NVIDIA driver, one call of `nvidia-smi`: no torch and no
interpreter of its own. Run `read` off the event loop.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB
_GPU_QUERY: Final = "index,utilization.gpu,memory.used,memory.total"
_GPU_PATIENCE_S: Final = 5.0  # the server cannot end while it is asked


@dataclass(frozen=True, slots=True)
class SystemValue:
    """One reading.

    Attributes:
        name: TorchServe's metric.
        value: In the metric's unit: percent, MiB (`Megabytes`) or GiB (`Gigabytes`).
        device: The GPU's number; None for the whole machine.
    """

    name: str
    value: float
    device: str | None = None


def query_gpus() -> str:
    """What `nvidia-smi` says of each GPU, one line of numbers each; empty without it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        done = subprocess.run(
            [command, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_GPU_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


class SystemMetrics:
    """Reads the machine's state; the CPU's use is that since the reading before."""

    def __init__(
        self,
        *,
        proc: Path = Path("/proc"),
        disk: Path = Path("/"),
        gpus: Callable[[], str] = query_gpus,
    ) -> None:
        """Read nothing yet.

        Args:
            proc: Where the kernel's files are.
            disk: A path on the file system to measure.
            gpus: Gives a line of `index, percent, MiB used, MiB in all` for each GPU.
        """
        self._proc = proc
        self._disk = disk
        self._gpus = gpus
        # of the reading before; nothing yet counts from the machine's start
        self._busy_and_total = (0, 0)

    def read(self) -> list[SystemValue]:
        """Everything that can be read here; blocks for as long as `gpus` does."""
        return [*self._cpu(), *self._memory(), *self._disk_space(), *self._gpu_use()]

    def _cpu(self) -> Iterator[SystemValue]:
        try:
            first_line = (self._proc / "stat").read_text(encoding="ascii").partition("\n")[0]
        except OSError:
            return
        # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already
        ticks = [int(word) for word in first_line.split()[1:9]]
        total = sum(ticks)
        busy = total - sum(ticks[3:5])
        busy_before, total_before = self._busy_and_total
        self._busy_and_total = (busy, total)
        share = (busy - busy_before) / max(1, total - total_before)
        yield SystemValue("CPUUtilization", _percent(share))

    def _memory(self) -> Iterator[SystemValue]:
        try:
            lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
        except OSError:
            return
        kib = {
            key: int(rest.split()[0]) for key, _, rest in (each.partition(":") for each in lines)
        }
        total, available = kib["MemTotal"], kib["MemAvailable"]
        used = total - available
        yield SystemValue("MemoryUsed", used * 1024 / _MIB)
        yield SystemValue("MemoryAvailable", available * 1024 / _MIB)
        yield SystemValue("MemoryUtilization", _percent(used / total))

    def _disk_space(self) -> Iterator[SystemValue]:
        space = os.statvfs(self._disk)
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        available = space.f_bavail * space.f_frsize
        yield SystemValue("DiskUsage", used / _GIB)
        yield SystemValue("DiskAvailable", available / _GIB)
        yield SystemValue("DiskUtilization", _percent(used / max(1, used + available)))

    def _gpu_use(self) -> Iterator[SystemValue]:
        for line in self._gpus().splitlines():
            device, *words = (word.strip() for word in line.split(","))
            if len(words) != 3:
                continue
            use, used, total = map(_number, words)  # `[N/A]` where the driver does not say
            if use is not None:
                yield SystemValue("GPUUtilization", use, device)
            if used is not None:
                yield SystemValue("GPUMemoryUsed", used, device)
            if used is not None and total:
                yield SystemValue("GPUMemoryUtilization", _percent(used / total), device)


def _percent(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 1)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
