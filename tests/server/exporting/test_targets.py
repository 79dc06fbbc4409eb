"""Each kind of program: made, served, and refused where the model cannot be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flambeau
from flambeau.archive import read_manifest, unpack
from flambeau.errors import ExportError
from flambeau.exporting.module import ExportReport
from flambeau.exporting.options import Method, Target
from flambeau.exporting.program import program_format

FILES = {"torch_export": "model.pt2", "aot_inductor": "model.pt2", "onnx": "model.onnx"}
slow_targets = pytest.mark.parametrize("target", FILES)


class Scorer(nn.Module):
    """Two inputs, one of them whole numbers; two outputs; a layer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = (self.embedding(tokens) * mask.unsqueeze(-1)).sum(1)
        return self.head(self.norm(hidden)), hidden


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x * 2
        return x - 1


class Several(nn.Module):
    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        return torch.stack(xs).sum(0)


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    tokens = torch.randint(20, (rows, 5), generator=generator)
    return tokens, torch.rand(rows, 5, generator=generator)


def export(model: nn.Module, given: Any, path: Path, **options: Any) -> ExportReport:  # noqa: ANN401
    return flambeau.export(model, given, name="m", version="1.0", path=path, **options)


@pytest.mark.slow
@slow_targets
def test_a_program_of_each_kind_computes_what_the_model_computes(
    tmp_path: Path, target: str
) -> None:
    torch.manual_seed(0)
    model = Scorer()
    report = export(model, inputs(1), tmp_path, target=target, samples=inputs(6))
    assert read_manifest(report.path).serialized_file == FILES[target]
    assert report.batch_sizes == (1, 2, 7, 16)
    assert [item.dtype for item in report.signature.inputs] == ["int64", "float32"]
    assert model.training  # as it was
    unpack(report.path, tmp_path / "unpacked")
    program = program_format(Target(target), method=None).load(
        tmp_path / "unpacked" / FILES[target], device=torch.device("cpu")
    )
    given = inputs(33)
    model.eval()
    outputs: Any = program(*given)
    for expected, got in zip(model(*given), outputs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@slow_targets
def test_a_branch_on_values_is_refused_with_its_line(tmp_path: Path, target: str) -> None:
    with pytest.raises(ExportError) as caught:
        export(Branching(), torch.ones(2, 3), tmp_path / "made", target=target)
    message = str(caught.value)
    assert "the model cannot be exported" in message
    assert "if bool(x.sum() > 0)" in message
    assert f"{Path(__file__).name}" in message
    assert "torch.cond" in message
    assert list(tmp_path.iterdir()) == []


def test_a_traced_branch_is_found_by_inputs_that_go_the_other_way(tmp_path: Path) -> None:
    with (
        pytest.warns(Warning, match="TracerWarning|might not generalize|Converting a tensor"),
        pytest.raises(ExportError, match=r"but not with their signs turned: .*--method script"),
    ):
        export(Branching(), torch.full((2, 3), 3.0), tmp_path)
    report = export(Branching(), torch.full((2, 3), 3.0), tmp_path, method="script")
    assert report.parity.agrees


def test_any_number_of_inputs_may_be_taken_together(tmp_path: Path) -> None:
    given = (torch.ones(1, 2), torch.ones(1, 2) * 3)
    report = export(Several(), given, tmp_path, target="torch_export")
    assert [item.name for item in report.signature.inputs] == ["input_0", "input_1"]


def test_a_method_is_for_torchscript() -> None:
    with pytest.raises(ExportError, match=r"'script' is a way to make TorchScript; .*leave it out"):
        program_format(Target.ONNX, method=Method.SCRIPT)
