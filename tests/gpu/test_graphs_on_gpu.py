"""CUDA graphs and compiled models on a CUDA device; `make test-gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flambeau import torchscript
from flambeau.handler import BaseHandler
from flambeau.messages import OptimizeLevel, OptimizeWish
from flambeau.optimizing import compiled
from flambeau.optimizing.candidates import Candidate, graph_candidates
from flambeau.optimizing.graphs import CudaRecorder, GraphedModel
from flambeau.optimizing.optimizer import Optimizer
from flambeau.parity import Samples, Tolerance
from flambeau.self_check import SelfCheck

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MAX_BATCH_SIZE = 6


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda:0")


@pytest.fixture
def model(device: torch.device) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Linear(12, 40), torch.nn.Tanh(), torch.nn.Linear(40, 4)
    return torch.nn.Sequential(*layers).eval().to(device)


def graphed(model: torch.nn.Module, device: torch.device) -> GraphedModel:
    return GraphedModel(
        model,
        examples=[torch.ones(1, 12, device=device)],
        max_batch_size=MAX_BATCH_SIZE,
        record=CudaRecorder(device),
    )


def test_replaying_equals_the_model_at_every_size_in_any_order(
    model: torch.nn.Module, device: torch.device
) -> None:
    call = graphed(model, device)
    with torch.inference_mode():
        inputs = [torch.randn(size, 12, device=device) for size in (6, 1, 3, 5, 2, 4, 6, 1)]
        outputs = [call(x) for x in inputs]  # all are launched before any is read
        for x, y in zip(inputs, outputs, strict=True):
            torch.testing.assert_close(y, model(x), atol=1e-3, rtol=1e-3)


def test_batches_that_no_graph_was_recorded_for_are_answered(
    model: torch.nn.Module, device: torch.device
) -> None:
    call = graphed(model, device)
    with torch.inference_mode():
        for size in (0, 7, 100):
            x = torch.randn(size, 12, device=device)
            torch.testing.assert_close(call(x), model(x), atol=1e-3, rtol=1e-3)
    with pytest.raises(RuntimeError):
        call(torch.randn(2, 11, device=device))


class Handler(BaseHandler):
    """Has this model already."""

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.model = torchscript.trace(model, [torch.ones(2, 12, device=device)])


def test_the_optimizer_checks_and_takes_graphs(
    model: torch.nn.Module, device: torch.device
) -> None:
    inputs = torch.randn(4, 12)
    with torch.no_grad():
        outputs = model(inputs.to(device)).cpu()
    samples = Samples(inputs=(inputs,), outputs=(outputs,), tolerance=Tolerance())
    handler = Handler(model, device)
    check = SelfCheck(
        inference=handler.inference,
        samples=samples,
        max_batch_size=MAX_BATCH_SIZE,
        device=device,
    )
    wish = OptimizeWish(level=OptimizeLevel.SAFE)

    def no_others(*_: object, **_facts: object) -> list[Candidate]:
        return []

    optimizer = Optimizer(handler, check, wish=wish, num_threads=1, find_candidates=no_others)
    optimizer.run()
    found = {finding.candidate: finding for finding in optimizer.findings}
    assert found["CUDA graphs"].refused == ""
    assert check.compare()


def test_a_model_that_waits_for_the_device_is_refused(device: torch.device) -> None:
    def waits(x: torch.Tensor) -> torch.Tensor:
        return x * x.sum().item()

    (candidate,) = graph_candidates(
        waits,
        lambda size: [torch.ones(size, 12, device=device)],
        level=OptimizeLevel.SAFE,
        device=device,
        max_batch_size=2,
    )
    with pytest.raises(RuntimeError):
        candidate.build()


@pytest.mark.timeout(300)
def test_a_compiled_model_computes_the_same(
    model: torch.nn.Module, device: torch.device, tmp_path: Path
) -> None:
    examples = [torch.randn(compiled.example_size(MAX_BATCH_SIZE), 12, device=device)]
    path = tmp_path / "model.so"
    compiled.compile_model(model, path, examples=examples, max_batch_size=MAX_BATCH_SIZE)
    call = compiled.load(path, model, examples=examples, max_batch_size=MAX_BATCH_SIZE)
    with torch.inference_mode():
        for size in (1, 2, 5, 6, 7):
            x = torch.randn(size, 12, device=device)
            torch.testing.assert_close(call(x), model(x), atol=1e-3, rtol=1e-3)
