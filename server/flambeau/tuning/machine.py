"""What this machine, or the container we are in, has to share out among workers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flambeau.devices import count_cpus, count_gpus

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
_UNKNOWN_BYTES: Final = 1 << 62  # where the system does not tell


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What there is to share out.

    Attributes:
        num_cpus: 1 or more.
        num_gpus: 0 for a model that runs on the CPU.
        free_bytes: Memory that workers may take.
    """

    num_cpus: int
    num_gpus: int
    free_bytes: int

    def __str__(self) -> str:
        gpus = f" and {self.num_gpus} GPUs" if self.num_gpus else ""
        return f"{self.num_cpus} CPUs{gpus}"


def this_machine(*, may_use_gpus: bool) -> Machine:
    """What there is now."""
    return Machine(
        num_cpus=count_cpus(),
        num_gpus=count_gpus() if may_use_gpus else 0,
        free_bytes=free_bytes(),
    )


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Memory that is free, or soon can be: of the machine, or of the container if that is less."""
    free = [_UNKNOWN_BYTES]
    with suppress(OSError, ValueError, IndexError):
        lines = meminfo.read_text(encoding="ascii").splitlines()
        line = next((line for line in lines if line.startswith("MemAvailable:")), "")
        free.append(int(line.split()[1]) << 10)
    with suppress(OSError, ValueError):  # no limit reads as `max`
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        free.append(limit - int((cgroup / "memory.current").read_text(encoding="ascii")))
    return max(0, min(free))
