"""Several programs in one archive, and programs in fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flambeau
from flambeau import torchscript
from flambeau.archive import list_files, read_manifest, unpack
from flambeau.archive_keys import SigningKey, make_key
from flambeau.archive_programs import read_programs
from flambeau.archive_signing import sign_archive, verify_archive
from flambeau.config import SignaturePolicy
from flambeau.errors import ExportError
from flambeau.exporting.command import describe_report
from flambeau.exporting.module import ExportReport
from flambeau.parity import Tolerance
from flambeau.signing import Trust


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.norm(self.conv(images)))
        return {"scores": self.head(hidden.flatten(1)) * 4, "hidden": hidden}


class InCompany(nn.Module):
    """Answers depend on the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class CloseCall(nn.Module):
    """Two classes that fewer bits cannot tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([[1.0, 1.0001]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.scores


def export(model: nn.Module, given: torch.Tensor, path: Path, **options: Any) -> ExportReport:  # noqa: ANN401
    return flambeau.export(model, given, name="m", version="1", path=path, **options)


def export_net(path: Path, **options: Any) -> ExportReport:  # noqa: ANN401  # of `export`
    torch.manual_seed(0)
    return export(Net(), torch.randn(4, 1, 8, 8), path, **options)


@pytest.mark.parametrize("method", ["trace", "script"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fewer_bits_halve_the_weights_and_keep_inputs_and_outputs(
    tmp_path: Path, precision: str, method: str
) -> None:
    report = export_net(tmp_path, precisions=[precision], method=method)
    assert report.parity.top1_agreement == 1.0
    assert 0 < report.parity.max_abs_error < 0.1
    assert [item.dtype for item in report.signature.outputs] == ["float32", "float32"]
    unpack(report.path, tmp_path / "model")
    program = torchscript.load(tmp_path / "model" / "model.pt", device="cpu")
    assert {weight.element_size() for weight in program.parameters()} == {2}
    assert program(torch.randn(2, 1, 8, 8))["scores"].dtype is torch.float32


def test_other_programs_lie_beside_the_served_one_which_is_exact(tmp_path: Path) -> None:
    report = export_net(tmp_path, precisions=["bf16", "fp32"], target=["torchscript"])
    alone = export_net(tmp_path / "alone")
    assert read_manifest(report.path).serialized_file == "model.pt"
    more = list_files(report.path).keys() - list_files(alone.path).keys()
    assert more == {"model.torchscript.bf16.pt", "MAR-INF/programs.json"}
    unpack(report.path, tmp_path / "model")
    (beside,) = read_programs(tmp_path / "model")
    assert (beside.target, beside.precision, beside.share) == ("torchscript", "bf16", 0.03)
    served, other = report.programs
    assert served.plan.tolerance == Tolerance()
    assert (served.plan.file_name, other.sha256) == ("model.pt", beside.sha256)
    said = describe_report(report)
    assert "beside   model.torchscript.bf16.pt: largest error" in said


def test_an_archive_with_several_programs_is_signed_and_refused_as_any_other(
    tmp_path: Path,
) -> None:
    make_key(tmp_path / "key.pem")
    key = SigningKey.read(tmp_path / "key.pem")
    archive = export_net(tmp_path, precisions=["fp32", "fp16"]).path
    trust = Trust(policy=SignaturePolicy.REQUIRE, keys={key.key_id: key.public})
    sign_archive(archive, key)
    assert verify_archive(archive, trust).is_trusted
    unpack(archive, tmp_path / "model")
    assert [each.precision for each in read_programs(tmp_path / "model")] == ["fp16"]


def test_every_target_is_made_in_every_precision(tmp_path: Path) -> None:
    report = export_net(
        tmp_path, precisions=["fp32", "fp16"], target=["torchscript", "torch_export"]
    )
    assert [each.plan.file_name for each in report.programs] == [
        "model.pt",
        "model.torchscript.fp16.pt",
        "model.torch_export.fp32.pt2",
        "model.torch_export.fp16.pt2",
    ]
    unpack(report.path, tmp_path / "model")
    needs = {each.file: each.needs.torch for each in read_programs(tmp_path / "model")}
    release = torch.__version__.partition("+")[0]
    assert needs["model.torchscript.fp16.pt"] == ""
    assert needs["model.torch_export.fp32.pt2"] == f">={release}"


def test_fewer_bits_that_change_a_class_are_refused(tmp_path: Path) -> None:
    says = (
        r"torchscript in bf16: the program puts another class in front for 2 of 2 samples \(0, 1\)"
    )
    given = torch.ones(2, 1)
    with pytest.raises(ExportError, match=says):
        export(CloseCall(), given, tmp_path, precisions=["fp32", "bf16"])
    assert list(tmp_path.iterdir()) == []
    report = export(CloseCall(), given, tmp_path, precisions=["bf16"], top1=0.0)
    assert report.parity.top1_agreement == 0.0


def test_answers_that_depend_on_their_company_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="an answer depends on the other samples of its batch"):
        export(InCompany(), torch.randn(3, 2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_computes_in_float32_by_name_is_refused_in_fewer_bits(tmp_path: Path) -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.head(x.float())
            return scores

    with pytest.raises(ExportError, match=r"torchscript in bf16: .*dtype"):
        export(Strict(), torch.randn(3, 2), tmp_path, precisions=["bf16"])


class Words(nn.Module):
    """An embedding, which stays as it is, and layers that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 64)
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 3))

    def forward(self, words: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.layers((self.embedding(words) * weights.unsqueeze(-1)).sum(1))}


def export_words(path: Path, **options: Any) -> ExportReport:  # noqa: ANN401  # of `export`
    torch.manual_seed(0)
    given = (torch.randint(20, (6, 5)), torch.rand(6, 5))
    return flambeau.export(Words(), given, name="m", version="1", path=path, **options)


@pytest.mark.slow
def test_int8_is_smaller_and_no_sample_changes_another_s_answer(tmp_path: Path) -> None:
    report = export_words(
        tmp_path, precisions=["fp32", "int8"], target=["torchscript", "torch_export"]
    )
    sizes = list_files(report.path)
    assert sizes["model.torchscript.int8.pt"] < 0.6 * sizes["model.pt"]
    assert not any("torch_export.int8" in name for name in sizes)
    served, int8, _ = report.programs
    assert served.proof.samples.max_abs_error <= 1e-5 < int8.proof.samples.max_abs_error
    assert int8.proof.batch_invariance.max_abs_error == 0
    unpack(report.path, tmp_path / "model")
    program = torchscript.load(tmp_path / "model" / "model.torchscript.int8.pt", device="cpu")
    assert program(torch.ones(9, 5, dtype=torch.int64), torch.ones(9, 5))["scores"].shape == (9, 3)
    needs = {each.precision: each.needs.device for each in read_programs(tmp_path / "model")}
    assert needs == {"int8": "cpu", "fp32": ""}


class Masked(nn.Module):
    """Truth values among the inputs, which no int8 can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        counts_BT1 = mask_BT.unsqueeze(-1).to(x_BTD.dtype)
        scores: torch.Tensor = self.head((x_BTD * counts_BT1).sum(1))
        return scores


@pytest.mark.slow
def test_layers_are_in_int8_where_what_is_between_cannot_be(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = (torch.randn(6, 5, 64), torch.ones(6, 5, dtype=torch.bool))
    report = flambeau.export(
        Masked(), given, name="m", version="1", path=tmp_path, precisions=["fp32", "int8"]
    )
    _, int8 = report.programs
    assert int8.proof.samples.max_abs_error > 1e-5


@pytest.mark.slow
def test_int8_calibrated_on_other_inputs_is_refused(tmp_path: Path) -> None:
    faint = (torch.randint(20, (6, 5)), torch.rand(6, 5) / 1000)
    says = "torchscript in int8: the program does not compute what the model computes"
    with pytest.raises(ExportError, match=says):
        export_words(tmp_path, precisions=["fp32", "int8"], calibration=faint)


@pytest.mark.slow
def test_a_model_that_cannot_be_followed_is_not_quantised(tmp_path: Path) -> None:
    class Branching(Net):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return super().forward(images if bool(images.sum() > -1e9) else -images)

    torch.manual_seed(0)
    with (
        pytest.warns(Warning, match="Python boolean"),
        pytest.raises(ExportError, match=r"int8: the model cannot be quantised: TraceError.*bf16"),
    ):
        export(Branching(), torch.randn(4, 1, 8, 8), tmp_path, precisions=["fp32", "int8"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "onnx", "precisions": ["int8"]}, "target onnx has no int8"),
        ({"calibration": torch.ones(2, 3)}, "calibration inputs are .*but example inputs are"),
        ({"precisions": ["fp8"]}, "precision 'fp8' is not supported; use one of: fp32, bf16"),
        ({"precisions": []}, "no target or no precision is given"),
        ({"target": []}, "no target or no precision is given"),
        ({"target": ["onnx", "torch_export"], "method": "script"}, "method"),
    ],
)
def test_wrong_wishes_are_told(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        export_net(tmp_path, **options)
