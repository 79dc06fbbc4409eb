"""The program in a loop, without server: what the best server could reach.

It is tried in several forms, as an engineer who optimises by hand would, and the fastest at each
batch size counts. A process of its own with the servers' number of threads, idle between questions.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import torch

from benchmarks.figures import Bare, percentile
from flambeau import torchscript

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent.parent
TRIAL_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """How to measure."""

    batch_size: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was measured, and in which form."""

    form: str
    bare: Bare


class BareLoop:
    """The process, asked from outside."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def measure(self, *, batch_size: int, seconds: float) -> Answer:
        """Call the program in a loop for so long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = Question(batch_size=batch_size, seconds=seconds)
        self._process.stdin.write(msgspec.json.encode(question) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Answer)


@contextmanager
def looping(
    program: Path, *, sample: Path, shape: Sequence[int], num_threads: int
) -> Generator[BareLoop]:
    """Start the process.

    Args:
        program: TorchScript of one float32 input.
        sample: One sample as raw float32.
        shape: Its shape.
        num_threads: Of one operation.
    """
    sizes = ",".join(map(str, shape))
    command = [sys.executable, "-m", "benchmarks.peers.bare_loop"]
    command += [str(program), str(sample), sizes, str(num_threads)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield BareLoop(process)
        finally:
            process.kill()


def main() -> None:
    """Answer questions from standard input until it ends."""
    program, sample, sizes, num_threads = sys.argv[1:]
    torch.set_num_threads(int(num_threads))
    shape = [int(size) for size in sizes.split(",")]
    x = torch.frombuffer(bytearray(Path(sample).read_bytes()), dtype=torch.float32).reshape(shape)
    best: dict[int, str] = {}
    made = forms(Path(program), is_image=len(shape) == 3)
    for line in sys.stdin.buffer:
        question = msgspec.json.decode(line, type=Question)
        batch = x.repeat(question.batch_size, *[1] * len(shape))
        if question.batch_size not in best:
            rates = {name: _loop(run, batch, TRIAL_S).samples_per_s for name, run in made.items()}
            best[question.batch_size] = max(rates, key=lambda name: rates[name])
        form = best[question.batch_size]
        answer = Answer(form=form, bare=_loop(made[form], batch, question.seconds))
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def forms(program: Path, *, is_image: bool) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The program as it is, and optimised by hand; all compute the same.

    Args:
        program: TorchScript.
        is_image: Whether its input is (B, C, H, W).
    """
    made: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "as exported": _load(program),
        "frozen": torch.jit.freeze(_load(program)),
        "optimize_for_inference": torch.jit.optimize_for_inference(_load(program)),
    }
    if is_image:
        moved = _load(program)
        moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
        made["frozen, channels last"] = _ChannelsLast(torch.jit.freeze(moved))
    return made


def _load(program: Path) -> torch.jit.ScriptModule:
    return torchscript.load(program, device="cpu").eval()


class _ChannelsLast:
    def __init__(self, program: torch.jit.ScriptModule) -> None:
        self._program = program

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._program(x_BCHW.contiguous(memory_format=torch.channels_last))
        return y


@torch.inference_mode()
def _loop(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, seconds: float) -> Bare:
    for _ in range(2):  # TorchScript profiles in the first and optimises in the second
        run(x)
    durations_s: list[float] = []
    started_at = now = time.perf_counter()
    while now < started_at + seconds:
        run(x)
        before, now = now, time.perf_counter()
        durations_s.append(now - before)
    return Bare(
        batch_size=len(x),
        samples_per_s=len(x) * len(durations_s) / (now - started_at),
        p50_ms=percentile(durations_s, 50) * 1000,
        p99_ms=percentile(durations_s, 99) * 1000,
    )


if __name__ == "__main__":
    main()
