"""Training on a CUDA device, and what is made of its checkpoints; `make test-gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import flambeau
from flambeau.archive import unpack
from flambeau.exporting.checkpoint import build_model, export_checkpoint
from flambeau.weights import exported
from training.checkpoint import load
from training.config import TrainConfig, read_config
from training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CONFIG = Path(__file__).resolve().parents[2] / "training" / "configs" / "digits_lenet.toml"


def digits(output: Path, *overrides: str) -> TrainConfig:
    return read_config(CONFIG, overrides=["device=cuda", f"output={output}", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [("precision=32-true",), ("precision=bf16-mixed", "compile=true"), ("precision=16-mixed",)],
    ids=" ".join,
)
def test_digits_are_learned_in_each_precision(overrides: tuple[str, ...], tmp_path: Path) -> None:
    result = train(digits(tmp_path, "epochs=6", *overrides))
    assert result.metrics["val_accuracy"] >= 0.97


def test_a_run_goes_on_where_it_is_moved_to(tmp_path: Path) -> None:
    first = train(digits(tmp_path, "epochs=1"))
    moved = read_config(
        CONFIG, overrides=["device=cpu", f"output={tmp_path}", "epochs=2", "resume=auto"]
    )
    on_cpu = train(moved)
    back = train(digits(tmp_path, "epochs=3", "resume=auto"))
    steps = [load(each.last_checkpoint)["step"] for each in (first, on_cpu, back)]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]
    assert back.loss < on_cpu.loss < first.loss


def test_what_a_gpu_trained_computes_the_same_on_the_cpu(tmp_path: Path) -> None:
    trained = train(digits(tmp_path / "run", "epochs=3"))
    archive = tmp_path / "digits.mar"
    report = export_checkpoint(trained.best_checkpoint, name="digits", version="1.0", path=archive)
    assert report.parity.agrees  # on the CPU, where it is exported
    checkpoint = load(trained.best_checkpoint)
    model = build_model(checkpoint["model"]).eval()
    model.load_state_dict(checkpoint["model_state_dict"])
    with torch.inference_mode():
        on_cpu = model(checkpoint["samples"])
        on_gpu = model.to("cuda")(checkpoint["samples"].to("cuda")).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-2 * float(on_cpu.abs().max()), rtol=0.0)
    assert torch.equal(on_gpu.argmax(1), on_cpu.argmax(1))


@pytest.mark.parametrize("target", ["torchscript", "torch_export", "aot_inductor"])
def test_a_model_on_the_gpu_is_exported_for_it(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Linear(12, 40), torch.nn.Tanh(), torch.nn.Linear(40, 4)
    model = torch.nn.Sequential(*layers).eval().to("cuda")
    x = torch.randn(6, 12, device="cuda")
    path = tmp_path / "m.mar"
    report = flambeau.export(model, x, name="m", version="1.0", path=path, target=target)
    assert report.parity.agrees
    if target == "aot_inductor":
        unpack(path, tmp_path / "unpacked")
        call = exported.load(tmp_path / "unpacked" / "model.pt2", device=torch.device("cuda:0"))
        torch.testing.assert_close(call(x), model(x), atol=1e-3, rtol=1e-3)
