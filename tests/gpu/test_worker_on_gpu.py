"""A worker process on a CUDA device; `make test-gpu`."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import flambeau
from flambeau import torchscript, wire
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import (
    BatchDone,
    Failure,
    FailureKind,
    InferenceRequest,
    Input,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    Reply,
    RunBatch,
    ToFront,
)
from flambeau.parity import Samples, Tolerance
from flambeau.signature import SAMPLES_PATH, SIGNATURE_PATH, Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TIMEOUT_S = 100

HUNGRY = """
import torch

def handle(data, context):
    if data is None:
        return None
    if data[0]["body"] == b"much":
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    return [str(torch.ones(1, device="cuda").device)]
"""


class Convolutions(torch.nn.Module):
    """Deep enough that TF32 shows."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, 64, 64, 64]
        self.layers = torch.nn.Sequential(
            *(
                torch.nn.Sequential(torch.nn.Conv2d(i, o, 3, padding=1), torch.nn.ReLU())
                for i, o in itertools.pairwise(sizes)
            )
        )
        self.head = torch.nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(images).mean((2, 3)))
        return logits


def archive(root: Path, *, handler: str) -> Path:
    (root / "MAR-INF").mkdir()
    manifest = Manifest(handler=handler, serialized_file="model.pt")
    (root / MANIFEST_PATH).write_text(manifest.to_json())
    return root


def convolutions(root: Path, *, wrong_by: float = 0.0) -> Path:
    """An exported net with samples recorded on the CPU."""
    torch.manual_seed(0)
    model = Convolutions().eval()
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        outputs = model(images)
    archive(root, handler="base_handler")
    torchscript.save(torchscript.trace(model, [images]), root / "model.pt")
    outputs[3] += wrong_by * outputs.abs().max()
    samples = Samples(inputs=(images,), outputs=(outputs,), tolerance=Tolerance())
    (root / SAMPLES_PATH).write_bytes(samples.to_safetensors())
    signature = Signature(
        inputs=(TensorSpec(name="images", dtype="float32", shape=(None, 3, 32, 32)),),
        outputs=(TensorSpec(name="output_0", dtype="float32", shape=(None, 10)),),
    )
    (root / SIGNATURE_PATH).write_text(signature.to_json())
    return root


@pytest.fixture
def front() -> Generator[socket.socket]:
    """The front's end of the socket of a new worker process."""
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    process = subprocess.Popen(
        [sys.executable, "-m", "flambeau.worker", "--fd", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": str(Path(flambeau.__file__).parents[1])},
    )
    theirs.close()
    with process, ours:
        yield ours
        process.kill()


def messages(front: socket.socket) -> Iterator[ToFront]:
    reader = wire.FrameReader(max_frame_bytes=2**24)
    while num_bytes := front.recv_into(reader.get_buffer()):
        yield from map(wire.decode_to_front, reader.received(num_bytes))


def load(front: socket.socket, incoming: Iterator[ToFront], root: Path) -> ToFront:
    message = LoadModel("mine", "1", str(root), None, "cuda:0", 4, 1, 10_000, "0.1")
    front.sendall(wire.encode(message))
    return next(answer for answer in incoming if not isinstance(answer, LoadProgress))


def run(front: socket.socket, incoming: Iterator[ToFront], *bodies: bytes) -> list[Reply | Failure]:
    requests = [
        InferenceRequest("id", [], [Input("body", None, memoryview(body))]) for body in bodies
    ]
    front.sendall(wire.encode(RunBatch(1, requests)))
    done = next(incoming)
    assert isinstance(done, BatchDone)
    return done.results


def test_a_model_is_checked_and_served_on_the_gpu(front: socket.socket, tmp_path: Path) -> None:
    root = convolutions(tmp_path)
    incoming = messages(front)
    loaded = load(front, incoming, root)
    assert isinstance(loaded, Loaded), loaded
    assert loaded.check.startswith("6 samples, max abs error ")
    assert loaded.check.endswith("top-1 6/6")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = torchscript.load(root / "model.pt", device="cpu")(images).detach().numpy()
    results = run(front, incoming, *(image.numpy().tobytes() for image in images))
    got = np.array([json.loads(bytes(r.body)) for r in results if isinstance(r, Reply)])
    np.testing.assert_allclose(got, expected, atol=0.01 * float(np.abs(expected).max()))


def test_a_wrong_model_is_refused_on_the_gpu_too(front: socket.socket, tmp_path: Path) -> None:
    failed = load(front, messages(front), convolutions(tmp_path, wrong_by=0.05))
    assert isinstance(failed, LoadFailed)
    assert "sample 3, output 0" in failed.message


def test_lack_of_device_memory_is_told_apart_and_survived(
    front: socket.socket, tmp_path: Path
) -> None:
    root = archive(tmp_path, handler="hungry")
    (root / "hungry.py").write_text(HUNGRY)
    incoming = messages(front)
    assert isinstance(load(front, incoming, root), Loaded)
    (failure,) = run(front, incoming, b"much")
    assert failure == Failure(FailureKind.OUT_OF_RESOURCES, "Out of resources")
    (reply,) = run(front, incoming, b"little")
    assert isinstance(reply, Reply)
    assert bytes(reply.body) == b"cuda:0"
