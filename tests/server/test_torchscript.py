from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from flambeau import torchscript
from flambeau.errors import ArchiveError, ExportError


class Branching(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return torch.relu(self.linear(x))
        return torch.zeros(x.shape[0], 3)


class NotScriptable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return max((x, -x), key=lambda t: float(t.sum()))


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("vocab.txt")


def test_a_saved_trace_computes_the_same_and_warns_of_nothing(tmp_path: Path) -> None:
    """Pytest turns warnings into errors, so a deprecation would fail this test."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
    inputs = torch.randn(5, 4)
    torchscript.save(torchscript.trace(model, (inputs[:2],)), tmp_path / "model.pt")
    program = torchscript.load(tmp_path / "model.pt", device="cpu")
    assert torch.equal(program(inputs), model(inputs))
    assert not program.training


def test_a_script_keeps_branches(tmp_path: Path) -> None:
    model = Branching().eval()
    torchscript.save(torchscript.script(model), tmp_path / "model.pt")
    program = torchscript.load(tmp_path / "model.pt", device="cpu")
    for inputs in (torch.ones(2, 4), -torch.ones(3, 4)):
        assert torch.equal(program(inputs), model(inputs))


def test_the_tracers_own_warnings_reach_the_caller() -> None:
    with pytest.warns(Warning, match="Python boolean"):
        torchscript.trace(Branching().eval(), (torch.ones(1, 4),))


def test_other_deprecations_reach_the_caller() -> None:
    class Old(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn("old habits", DeprecationWarning, stacklevel=1)
            return x

    with pytest.warns(DeprecationWarning, match="old habits"):
        torchscript.trace(Old(), (torch.ones(1, 4),))


def test_what_the_compiler_refuses_is_told_with_its_reason() -> None:
    with pytest.raises(ExportError, match="cannot be scripted"):
        torchscript.script(NotScriptable())
    with pytest.raises(ExportError, match=r"cannot be traced: KeyError: 'vocab\.txt'"):
        torchscript.trace(Failing(), (torch.ones(1, 4),))


@pytest.mark.parametrize("damage", ["text", "cut", "state_dict", "empty"])
def test_a_file_that_holds_no_program_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.pt"
    torchscript.save(torchscript.trace(torch.nn.Linear(4, 3), (torch.ones(1, 4),)), path)
    if damage == "text":
        path.write_bytes(b"hello")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(
        ArchiveError, match=r"model\.pt is not a TorchScript program, or is damaged"
    ):
        torchscript.load(path, device="cpu")


def test_an_operation_that_this_pytorch_does_not_know_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torchscript.save(torchscript.trace(torch.nn.Linear(4, 3), (torch.ones(1, 4),)), path)
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content.replace(b"torch.linear(", b"torch.of_2099("))
    with pytest.raises(ArchiveError, match=r"aten::of_2099"):
        torchscript.load(path, device="cpu")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"model\.pt does not exist; export the model again"):
        torchscript.load(tmp_path / "model.pt", device="cpu")
