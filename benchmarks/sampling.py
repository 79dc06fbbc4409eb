"""What processes do: sampled stacks by py-spy, and the CPU time the kernel has counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.stages import Frame

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

PY_SPY = Path(sys.executable).with_name("py-spy")
RATE_HZ = 250
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>.*?)(?::(?P<line>\d+))?\)")


class SamplerError(RuntimeError):
    """py-spy is missing, or may not look into the process; its words follow."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A stack, outermost frame first, and how often it was seen."""

    stack: tuple[Frame, ...]
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuTime:
    """Seconds on a core so far."""

    main_s: float
    others_s: float

    def __sub__(self, before: CpuTime) -> CpuTime:
        return CpuTime(main_s=self.main_s - before.main_s, others_s=self.others_s - before.others_s)


@contextmanager
def sampling(pid: int, path: Path, *, style: str = "raw") -> Generator[None]:
    """Sample the process's busy threads while the block runs; the file is written at its end.

    The process is not paused: a paused one wakes its idle threads, which then look busy.

    Args:
        pid: Of a Python process of this user, or any for root.
        path: Where to write; a collapsed stack and a count per line.
        style: `raw`, or `flamegraph` for an SVG.

    Raises:
        SamplerError: It cannot be sampled.
    """
    if not PY_SPY.exists():
        raise SamplerError("py-spy is not installed; pip install 'flambeau[bench]'")
    command = [
        *(str(PY_SPY), "record", "--pid", str(pid), "--output", str(path), "--format", style),
        *("--rate", str(RATE_HZ), "--nonblocking", "--full-filenames"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as sampler:
        assert sampler.stdout is not None
        said = sampler.stdout.readline()  # it has found its way into the process
        try:
            yield
        finally:
            if sampler.poll() is None:
                sampler.send_signal(2)  # it writes what it has
            said += sampler.communicate()[0]
    if not path.exists():
        raise SamplerError(f"py-spy could not sample process {pid}: {said.strip()}")


def read_stacks(path: Path) -> list[Sampled]:
    """Read collapsed stacks; those that py-spy could not read have no frames and are left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [sampled for line in lines if (sampled := parse_stack(line)).stack]


def parse_stack(line: str) -> Sampled:
    """One line: frames with `;` between them, a space, and the count."""
    stack, _, count = line.rpartition(" ")
    return Sampled(tuple(_frames(stack.split(";"))), int(count))


def _frames(texts: Iterable[str]) -> Generator[Frame]:
    for text in texts:
        if (match := _FRAME.fullmatch(text)) is not None:
            yield Frame(match["function"], match["file"], int(match["line"] or 0))


def cpu_time(pid: int) -> CpuTime:
    """What the main thread of a process has used, and what its other threads have together."""
    main_s = others_s = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            nanoseconds = int((task / "schedstat").read_text(encoding="ascii").split()[0])
        except OSError:
            continue  # the thread has ended
        if task.name == str(pid):
            main_s = nanoseconds / 1e9
        else:
            others_s += nanoseconds / 1e9
    return CpuTime(main_s=main_s, others_s=others_s)


def idle_s() -> float:
    """Seconds that all cores together have had nothing to do."""
    words = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=6)
    return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Processes that the main thread of a process has started and that still run."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]
