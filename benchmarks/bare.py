"""The program of an archive called in a loop: what the server's figures are held against.

    python -m benchmarks.bare ARCHIVE BODY SECONDS BATCH_SIZE...

A process of its own with one thread, as a worker has. Prints a JSON list of `Bare`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import msgspec
import torch

from benchmarks.figures import Bare, percentile
from flambeau import torchscript
from flambeau.signature import SIGNATURE_PATH, Signature

WARM_UP_S = 0.5


def measure(archive: Path, *, body: Path, seconds: float, batch_sizes: list[int]) -> list[Bare]:
    """Measure in a fresh process.

    Args:
        archive: A `.mar` with a TorchScript program and a signature of one float32 input.
        body: One sample as raw float32, as the clients send it.
        seconds: How long, per batch size.
        batch_sizes: Samples per call.
    """
    numbers = [str(seconds), *map(str, batch_sizes)]
    command = [sys.executable, "-m", "benchmarks.bare", str(archive), str(body), *numbers]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=list[Bare])


def main() -> None:
    """Measure here and print."""
    archive, body = Path(sys.argv[1]), Path(sys.argv[2])
    seconds, batch_sizes = float(sys.argv[3]), [int(size) for size in sys.argv[4:]]
    torch.set_num_threads(1)
    model, shape = _read(archive)
    sample = torch.frombuffer(bytearray(body.read_bytes()), dtype=torch.float32).reshape(shape)
    found = [_loop(model, sample.repeat(n, *[1] * len(shape)), seconds) for n in batch_sizes]
    sys.stdout.buffer.write(msgspec.json.encode(found))


def _read(archive: Path) -> tuple[torch.jit.ScriptModule, tuple[int, ...]]:
    """The program, and the shape of one sample."""
    with zipfile.ZipFile(archive) as opened, tempfile.TemporaryDirectory() as directory:
        signature = Signature.from_json(opened.read(SIGNATURE_PATH))
        program = Path(directory) / "model.pt"
        program.write_bytes(opened.read("model.pt"))
        model = torchscript.load(program, device="cpu")
    shape = tuple(size for size in signature.inputs[0].sample_shape if size is not None)
    return model, shape


@torch.inference_mode()
def _loop(model: torch.jit.ScriptModule, x: torch.Tensor, seconds: float) -> Bare:
    warm_at = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < warm_at:
        model(x)
    durations_s: list[float] = []
    started_at = now = time.perf_counter()
    while now < started_at + seconds:
        model(x)
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
