"""`flambeau.export` as a training script calls it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn

import flambeau
from flambeau.archive import digest, list_files, read_file, read_manifest, unpack
from flambeau.archive_summary import describe_archive
from flambeau.errors import ExportError
from flambeau.exporting.module import ExportReport
from flambeau.parity import Tolerance, named_outputs, read_samples
from flambeau.signature import Signature, TensorSpec
from flambeau.torchscript import load

Result: TypeAlias = Callable[[torch.Tensor], object]


class Digits(nn.Module):
    """Dropout and batch norm, so that evaluation mode matters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 6 * 6, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.conv(image)))
        logits: torch.Tensor = self.head(self.dropout(hidden.flatten(1)))
        return logits


class Frozen(nn.Module):
    """The batch size becomes a Python number, which a trace records as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.reshape(int(x.shape[0]), 4))
        return logits


class MeanOverFrozen(nn.Module):
    """Right shapes, wrong numbers at other batch sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * int(x.shape[0])


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x * 2
        return x - 1


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Two(nn.Module):
    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, scale: float = 2.0
    ) -> dict[str, torch.Tensor]:
        return {"sums": (tokens * mask).sum(1) * scale, "tokens": tokens}


class Returning(nn.Module):
    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: torch.Tensor) -> object:
        return self.result(x)


class Loud(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"no rows for {len(x)}")


IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def export_digits(path: Path, **options: object) -> ExportReport:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"name": "digits", "version": "1.0", **options}
    return flambeau.export(Digits(), IMAGES, path=path, **settings)


def names_in(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


def exported(path: Path, into: Path) -> nn.Module:
    unpack(path, into)
    return load(into / "model.pt", device="cpu")


# what is written


@pytest.mark.parametrize("method", ["trace", "script"])
def test_an_exported_program_computes_what_the_model_computes(tmp_path: Path, method: str) -> None:
    model = Digits()
    report = flambeau.export(
        model,
        IMAGES[:2],
        samples=IMAGES,
        name="digits",
        version="1.0",
        path=tmp_path,
        method=method,
    )
    assert report.path == tmp_path / "digits-1.0.mar"
    assert report.digest == digest(report.path)
    assert report.parity.agrees
    assert report.parity.top1_agreement == 1.0
    assert report.batch_sizes == (1, 2, 7, 16)
    assert report.seconds > 0
    program = exported(report.path, tmp_path / "model")
    for num_rows in (1, 3, 40):
        images = torch.randn(num_rows, 1, 8, 8)
        torch.testing.assert_close(program(images), model.eval()(images))


def test_the_manifest_is_what_torchserve_expects(tmp_path: Path) -> None:
    report = export_digits(tmp_path, description="for tests")
    manifest = read_manifest(report.path)
    assert (manifest.model_name, manifest.model_version) == ("digits", "1.0")
    assert (manifest.handler, manifest.serialized_file) == ("base_handler", "model.pt")
    assert manifest.config_file == "model-config.yaml"
    assert read_file(report.path, "model-config.yaml") == b"batchSize: 16\n"
    assert manifest.description == "for tests"
    assert manifest.runtime == "python"
    with zipfile.ZipFile(report.path) as zipped:
        assert zipped.testzip() is None
        assert zipped.getinfo("model.pt").compress_type == zipfile.ZIP_STORED


def test_the_signature_names_arguments_and_leaves_the_batch_open(tmp_path: Path) -> None:
    report = export_digits(tmp_path)
    expected = Signature(
        inputs=(TensorSpec(name="image", dtype="float32", shape=(None, 1, 8, 8)),),
        outputs=(TensorSpec(name="output_0", dtype="float32", shape=(None, 10)),),
    )
    assert report.signature == expected
    text = read_file(report.path, "MAR-INF/signature.json")
    assert text is not None
    assert Signature.from_json(text) == expected


def test_samples_are_recorded_with_the_outputs_of_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Digits()
    report = flambeau.export(model, IMAGES, name="digits", version="1", path=tmp_path)
    unpack(report.path, tmp_path / "model")
    samples = read_samples(tmp_path / "model")
    assert samples is not None
    assert torch.equal(samples.inputs[0], IMAGES)
    with torch.no_grad():
        assert torch.equal(samples.outputs[0], model.eval()(IMAGES))


def test_no_more_than_32_samples_are_recorded(tmp_path: Path) -> None:
    report = export_digits(tmp_path, samples=torch.randn(100, 1, 8, 8))
    unpack(report.path, tmp_path / "model")
    samples = read_samples(tmp_path / "model")
    assert samples is not None
    assert len(samples) == report.parity.num_samples == 32


def test_the_parity_file_holds_numbers_and_digests(tmp_path: Path) -> None:
    report = export_digits(tmp_path, tolerance=Tolerance(atol=1e-3, rtol=1e-2))
    unpack(report.path, tmp_path / "model")
    metadata = tmp_path / "model" / "MAR-INF"
    parity = json.loads((metadata / "parity.json").read_text())
    samples = (metadata / "samples.safetensors").read_bytes()
    weights = (tmp_path / "model" / "model.pt").read_bytes()
    assert parity["verdict"] == "pass"
    assert parity["num_samples"] == 5
    assert parity["tolerance"] == {"atol": 1e-3, "rtol": 1e-2, "share": 0.0, "top1": 0.0}
    assert parity["samples_sha256"] == hashlib.sha256(samples).hexdigest()
    assert parity["torch_version"] == str(torch.__version__)
    (program,) = parity["programs"]
    assert program["sha256"] == hashlib.sha256(weights).hexdigest()
    described = [program[key] for key in ("file", "target", "precision", "verdict")]
    assert described == ["model.pt", "torchscript", "fp32", "pass"]
    assert program["tolerance"] == parity["tolerance"]
    assert [entry["batch"] for entry in program["sizes"]] == [1, 2, 7, 16]
    for entry in (program, *program["sizes"]):
        assert 0 <= entry["mean_abs_error"] <= entry["max_abs_error"] <= 1e-5
        assert entry["max_rel_error"] == 0
        assert entry["top1_agreement"] == 1.0
    assert program["batch_invariance"]["max_abs_error"] <= 1e-5


def test_lineage_tells_what_was_stated_and_what_made_it(tmp_path: Path) -> None:
    stated = {"git_commit": "abc", "metrics": {"loss": float("nan"), "accuracy": 0.9}}
    report = export_digits(tmp_path, lineage=stated)
    text = read_file(report.path, "MAR-INF/lineage.json")
    assert text is not None
    lineage = json.loads(text)
    assert lineage["git_commit"] == "abc"
    assert lineage["metrics"] == {"loss": None, "accuracy": 0.9}
    assert lineage["target"] == "torchscript"
    assert lineage["torch_version"] == str(torch.__version__)
    assert lineage["flambeau_version"] == flambeau.__version__
    assert lineage["created_at"].endswith("+00:00")
    assert lineage["python_version"].startswith("3.")


def test_labels_settings_and_files_are_packed(tmp_path: Path) -> None:
    handler = tmp_path / "mine.py"
    handler.write_text("def infer(data, context): ...\n")
    extra = tmp_path / "extra"
    (extra / "vocab").mkdir(parents=True)
    (extra / "vocab" / "words.txt").write_text("one")
    (extra / "__pycache__").mkdir()
    (extra / "__pycache__" / "x.pyc").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    report = export_digits(
        tmp_path / "digits.mar",
        handler=f"{handler}:infer",
        classes=[f"digit {i}" for i in range(10)],
        model_config={"batchSize": 4, "handler": {"topk": 3}},
        extra_files=[extra, tmp_path / "notes.txt"],
    )
    assert report.path == tmp_path / "digits.mar"
    manifest = read_manifest(report.path)
    assert manifest.handler == "mine:infer"
    assert manifest.config_file == "model-config.yaml"
    files = list_files(report.path)
    assert {"mine.py", "vocab/words.txt", "notes.txt", "model-config.yaml"} <= files.keys()
    assert not any("__pycache__" in name for name in files)
    labels = read_file(report.path, "index_to_name.json")
    assert labels is not None
    assert json.loads(labels)["3"] == "digit 3"
    config = read_file(report.path, "model-config.yaml")
    assert config == b"batchSize: 4\nhandler:\n  topk: 3\n"


def test_a_handler_file_alone_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    report = export_digits(tmp_path, handler=tmp_path / "mine.py")
    assert read_manifest(report.path).handler == "mine.py"


def test_versions_of_a_model_live_side_by_side(tmp_path: Path) -> None:
    first = export_digits(tmp_path / "store", version="1.0")
    second = export_digits(tmp_path / "store", version="1.1")
    assert {first.path.name, second.path.name} == {"digits-1.0.mar", "digits-1.1.mar"}


def test_several_inputs_and_named_outputs_are_exported(tmp_path: Path) -> None:
    inputs = (torch.arange(12).reshape(3, 4), torch.ones(3, 4, dtype=torch.int64))
    report = flambeau.export(Two(), inputs, name="two", version="1", path=tmp_path)
    assert [spec.name for spec in report.signature.inputs] == ["tokens", "mask"]
    assert [spec.dtype for spec in report.signature.inputs] == ["int64", "int64"]
    assert [spec.name for spec in report.signature.outputs] == ["sums", "tokens"]
    program = exported(report.path, tmp_path / "model")
    outputs = named_outputs(program(*(tensor[:1] for tensor in inputs)))
    assert outputs["sums"].tolist() == [12.0]


PAIRS: list[Result] = [lambda x: (x, x * 2), lambda x: [x, x * 2]]


@pytest.mark.parametrize("result", PAIRS)
def test_tuples_and_lists_of_outputs_are_exported(tmp_path: Path, result: Result) -> None:
    report = flambeau.export(
        Returning(result), torch.ones(2, 3), name="m", version="1", path=tmp_path
    )
    assert [spec.name for spec in report.signature.outputs] == ["output_0", "output_1"]


# what is left alone


def test_the_callers_module_keeps_its_modes_and_weights(tmp_path: Path) -> None:
    model = Digits()
    model.train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flambeau.export(model, IMAGES, name="digits", version="1", path=tmp_path)
    assert (model.training, model.norm.training, model.dropout.training) == (True, False, True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_modes_are_restored_when_the_export_fails(tmp_path: Path) -> None:
    model = nn.Sequential(Loud()).train()
    with pytest.raises(ExportError, match=r"the model fails on its samples: RuntimeError: no rows"):
        flambeau.export(model, torch.ones(2, 3), name="m", version="1", path=tmp_path)
    assert model.training
    assert model[0].training


def test_an_existing_archive_is_kept_unless_overwritten(tmp_path: Path) -> None:
    first = export_digits(tmp_path)
    with pytest.raises(ExportError, match=r"digits-1\.0\.mar exists; give another version"):
        export_digits(tmp_path)
    assert digest(first.path) == first.digest
    second = export_digits(tmp_path, overwrite=True, description="again")
    assert digest(first.path) == second.digest != first.digest


# what is refused


def test_a_trace_that_froze_the_batch_size_is_refused(tmp_path: Path) -> None:
    says = r"made with a batch of 4 and does not follow a batch of 1 .*method='script'"
    with pytest.warns(Warning, match="Python integer"), pytest.raises(ExportError, match=says):
        flambeau.export(Frozen(), torch.randn(4, 4), name="m", version="1", path=tmp_path)
    assert names_in(tmp_path) == []
    flambeau.export(
        Frozen(), torch.randn(4, 4), name="m", version="1", path=tmp_path, method="script"
    )
    assert names_in(tmp_path) == ["m-1.mar"]


def test_frozen_numbers_of_the_right_shape_are_found_too(tmp_path: Path) -> None:
    says = "does not follow a batch of 1 .*expected 1, got 4"
    with pytest.warns(Warning, match="Python integer"), pytest.raises(ExportError, match=says):
        flambeau.export(MeanOverFrozen(), torch.ones(4, 2), name="m", version="1", path=tmp_path)
    assert names_in(tmp_path) == []


def test_a_program_that_computes_something_else_is_refused_with_the_worst_sample(
    tmp_path: Path,
) -> None:
    """The example takes one branch, which the trace keeps; the samples take the other."""
    with pytest.warns(Warning, match="Python boolean"), pytest.raises(ExportError) as caught:
        flambeau.export(
            Branching(),
            torch.ones(2, 3),
            samples=torch.tensor([[-1.0, -1, -1], [-5, -5, -5]]),
            name="m",
            version="1",
            path=tmp_path / "made" / "m.mar",
        )
    assert "sample 1, output 0 at [0]: expected -6, got -10" in str(caught.value)
    assert "largest error 4 absolute" in str(caught.value)
    assert names_in(tmp_path) == []


def test_randomness_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Look for branches, randomness or state"):
        flambeau.export(Noisy(), torch.ones(2, 3), name="m", version="1", path=tmp_path)


def test_a_refused_overwrite_keeps_the_old_archive(tmp_path: Path) -> None:
    report = export_digits(tmp_path, name="m")
    with pytest.raises(ExportError):
        flambeau.export(
            Noisy(), torch.ones(2, 3), name="m", version="1.0", path=tmp_path, overwrite=True
        )
    assert digest(report.path) == report.digest


def test_a_model_that_needs_one_batch_size_is_blamed_itself(tmp_path: Path) -> None:
    model = Returning(lambda x: x.reshape(4, 3))
    with pytest.raises(ExportError, match=r"fails with a batch of 1 \(inputs of \[1, 3\]\): Run"):
        flambeau.export(model, torch.ones(4, 3), name="m", version="1", path=tmp_path)


UNUSABLE: list[tuple[Result, str]] = [
    (lambda x: x.sum(), r"output_0 has shape \[\] for a batch of 2"),
    (lambda x: x.sum(0), r"output_0 has shape \[3\] for a batch of 2"),
    (lambda x: (x, (x, x)), "return a tensor, or a tuple"),
    (str, "the model returns str"),
    (lambda x: torch.complex(x, x), r"dtype torch\.complex64"),
]


@pytest.mark.parametrize(("result", "says"), UNUSABLE)
def test_outputs_that_cannot_be_split_per_request_are_refused(
    tmp_path: Path, result: Result, says: str
) -> None:
    with pytest.raises(ExportError, match=says):
        flambeau.export(Returning(result), torch.ones(2, 3), name="m", version="1", path=tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "tflite"}, "use one of: torchscript, torch_export, aot_inductor, onnx"),
        ({"method": "guess"}, "method 'guess' is not supported; use one of: trace, script"),
        ({"name": "../up"}, "name '../up' is not usable"),
        ({"name": ""}, "name '' is not usable"),
        ({"version": "1/2"}, "version '1/2' is not usable"),
        ({"name": "m" * 129}, "is not usable"),
        ({"handler": "missing.py"}, r"handler missing\.py does not exist"),
        ({"handler": "dir/handler"}, r"not of a \.py file"),
        ({"extra_files": ["missing.txt"]}, r"extra file missing\.txt does not exist"),
        ({"classes": ["a", "b"]}, "names 2 labels, but output_0 has 10 columns"),
        ({"lineage": {"x": object()}}, "lineage is not plain data"),
        ({"lineage": {"target": "x"}}, "which the export states itself"),
        ({"model_config": {"x": object()}}, "model_config is not plain data"),
        ({"samples": torch.ones(2, 3)}, "samples are .* but example inputs are"),
        ({"samples": torch.ones(2, 1, 8, 8, dtype=torch.float64)}, "samples are .*float64"),
        ({"samples": torch.ones(0, 1, 8, 8)}, "the first dimension is the batch"),
        ({"samples": torch.tensor(1.0)}, "the first dimension is the batch"),
        ({"samples": [[1, 2]]}, r"samples are \['list'\]; give a tensor"),
        ({"samples": ()}, r"samples are \[\]; give a tensor"),
    ],
)
def test_wrong_arguments_are_told_apart(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        export_digits(tmp_path, **options)
    assert names_in(tmp_path) == []


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "index_to_name.json").write_text("{}")
    with pytest.raises(ExportError, match=r"two files would be 'index_to_name\.json'"):
        export_digits(
            tmp_path / "out",
            classes=[str(i) for i in range(10)],
            extra_files=[tmp_path / "index_to_name.json"],
        )


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"cannot make the directory .*file"):
        export_digits(tmp_path / "file")


# how it is imported


@pytest.mark.slow
def test_torch_is_imported_when_export_is_first_asked_for() -> None:
    code = (
        "import sys, flambeau, flambeau.exporting.command, flambeau.archive_summary\n"
        "assert 'torch' not in sys.modules\n"
        "assert callable(flambeau.export) and 'torch' in sys.modules\n"
        "from flambeau import export\n"
        "assert flambeau.export is export\n"
        "assert not hasattr(flambeau, 'no_such_name')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_summary_of_an_export_tells_where_it_comes_from(tmp_path: Path) -> None:
    report = export_digits(tmp_path, lineage={"git_commit": "abc", "config": {"seed": 3}})
    text = describe_archive(report.path)
    for part in (
        report.digest,
        "model_name             digits",
        "input    image float32 (batch, 1, 8, 8)",
        "output   output_0 float32 (batch, 10)",
        "5 samples, compared with torch",
        "model.pt  torchscript  fp32 ",
        "at batch 1, 2, 7, 16",
        "git_commit             abc",
        "    seed                 3",
        "model.pt",
    ):
        assert part in text
