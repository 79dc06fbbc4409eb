"""From the file a training run wrote to an archive, by call and by command line."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from flambeau.archive import read_file, read_manifest
from flambeau.errors import ConfigError, ExportError
from flambeau.exporting.checkpoint import build_model, export_checkpoint
from flambeau.exporting.command import configure, run

if TYPE_CHECKING:
    from pathlib import Path

    from flambeau.exporting.module import ExportReport

FACTORIES = """
import torch


class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


def net(num_classes):
    return Net(num_classes)


class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(3, 3)

    def forward(self, x):
        return self.embedding(x).mean(1)


def text():
    return "no module"


not_callable = 3
"""

IMAGE = {
    "mode": "L",
    "resize": None,
    "size": [4, 4],
    "mean": [0.5],
    "std": [0.25],
    "interpolation": "bilinear",
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's directory with a package of models, to run the export in."""
    directory = tmp_path / "project"
    (directory / "myproject").mkdir(parents=True)
    (directory / "myproject" / "__init__.py").write_text("")
    (directory / "myproject" / "models.py").write_text(FACTORIES)
    (directory / "myproject" / "needs.py").write_text("import a_module_nobody_has\n")
    (directory / "myproject" / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "myproject"]:
        monkeypatch.delitem(sys.modules, name)
    return directory


def content(**changes: object) -> dict[str, Any]:
    model = build_model({"factory": "myproject.models:net", "kwargs": {"num_classes": 3}})
    return {
        "epoch": 4,
        "step": 100,
        "model_state_dict": model.state_dict(),
        "loss": math.nan,
        "metrics": {"val_accuracy": 0.9},
        "config": {"seed": 7, "model": {"name": "net"}},
        "git_commit": "abc-dirty",
        "data_digest": "f" * 64,
        "torch_version": "2.13.0",
        "model": {"factory": "myproject.models:net", "kwargs": {"num_classes": 3}},
        "classes": ["cat", "dog", "eel"],
        "input": {"name": "x", "dtype": "float32", "shape": [1, 4, 4]},
        "image": IMAGE,
        "samples": torch.randn(40, 1, 4, 4),
        "sample_labels": torch.zeros(40, dtype=torch.int64),
        **changes,
    }


def saved(project: Path, **changes: object) -> Path:
    path = project / "best.pt"
    torch.save(content(**changes), path)
    return path


def export(checkpoint: Path, project: Path, **options: object) -> ExportReport:
    settings: dict[str, Any] = {"name": "animals", "version": "1.0", **options}
    return export_checkpoint(checkpoint, path=project / "store", **settings)


def test_an_image_checkpoint_becomes_an_image_classifier(project: Path) -> None:
    report = export(saved(project), project, model_config={"batchSize": 8, "handler": {"topk": 2}})
    manifest = read_manifest(report.path)
    assert manifest.handler == "image_classifier"
    config = yaml.safe_load(read_file(report.path, "model-config.yaml") or b"")
    assert config == {"batchSize": 8, "handler": {"image": IMAGE, "topk": 2}}
    labels = json.loads(read_file(report.path, "index_to_name.json") or b"")
    assert labels == {"0": "cat", "1": "dog", "2": "eel"}
    assert report.parity.num_samples == 32


def test_a_text_checkpoint_takes_texts_of_any_length(project: Path) -> None:
    tokenizer = {"tokens": ["<pad>", "<unk>", "é"], "merges": [], "max_tokens": 16}
    spec = {"factory": "myproject.models:Reader", "kwargs": {}}
    changes = {
        "model": spec,
        "model_state_dict": build_model(spec).state_dict(),
        "samples": torch.randint(3, (40, 10)),
    }
    report = export(saved(project, image=None, tokenizer=tokenizer, **changes), project)
    assert read_manifest(report.path).handler == "text_classifier"
    assert json.loads(read_file(report.path, "tokenizer.json") or b"") == tokenizer
    assert report.signature.inputs[0].shape == (None, None)


def test_a_checkpoint_of_a_table_with_categories_takes_rows_by_name(project: Path) -> None:
    names = [f"column {number}" for number in range(16)]
    table = {"feature_names": names, "categories": {"column 3": ["a", "b"]}}
    report = export(saved(project, image=None, samples=torch.randn(40, 16), **table), project)
    assert read_manifest(report.path).handler == "table_classifier"
    columns = json.loads(read_file(report.path, "columns.json") or b"")
    assert columns == {"names": names, "categories": {"column 3": ["a", "b"]}}


def test_a_damaged_tokenizer_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.tokens is no list"):
        export(saved(project, tokenizer={"tokens": ["a"]}), project)


def test_a_table_checkpoint_becomes_a_tensor_model(project: Path) -> None:
    report = export(saved(project, image=None, classes=None), project)
    manifest = read_manifest(report.path)
    assert (manifest.handler, manifest.config_file) == ("base_handler", "model-config.yaml")
    assert read_file(report.path, "index_to_name.json") is None


def test_the_lineage_leads_back_to_the_checkpoint(project: Path) -> None:
    checkpoint = saved(project)
    report = export(checkpoint, project)
    lineage = json.loads(read_file(report.path, "MAR-INF/lineage.json") or b"")
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert lineage["checkpoint"] == {"file": "best.pt", "sha256": sha256}
    assert lineage["model"]["factory"] == "myproject.models:net"
    assert lineage["git_commit"] == "abc-dirty"
    assert lineage["data_digest"] == "f" * 64
    assert lineage["metrics"] == {"val_accuracy": 0.9}
    assert lineage["config"] == {"seed": 7, "model": {"name": "net"}}
    assert (lineage["epoch"], lineage["loss"]) == (4, None)
    assert lineage["trained_with_torch"] == "2.13.0"


def test_the_smallest_checkpoint_has_weights_a_factory_and_samples(project: Path) -> None:
    small = {key: content()[key] for key in ("model_state_dict", "model", "samples")}
    torch.save(small, project / "small.pt")
    assert export(project / "small.pt", project).parity.agrees


@pytest.mark.parametrize(
    ("factory", "kwargs", "says"),
    [
        ("nowhere.models:net", {}, "there is no module 'nowhere', .* run the export in the dir"),
        ("myproject.none:net", {}, r"there is no module 'myproject\.none'"),
        ("myproject.needs:net", {}, "importing .* failed: ModuleNotFoundError: .*nobody_has"),
        ("myproject.broken:net", {}, "importing .* failed: ZeroDivisionError"),
        ("myproject.models:none", {}, r"models\.py\) has no function 'none'"),
        ("myproject.models:not_callable", {}, "has no function 'not_callable'"),
        ("myproject.models:net", {"width": 3}, r"net\(\{'width': 3\}\) failed: TypeError"),
        ("myproject.models:text", {}, "makes str, not a torch"),
        ("myproject.models", {}, "use 'module:function'"),
        (":net", {}, "use 'module:function'"),
    ],
)
def test_a_factory_that_makes_no_model_is_told_why(
    project: Path, factory: str, kwargs: dict[str, Any], says: str
) -> None:
    checkpoint = saved(project, model={"factory": factory, "kwargs": kwargs})
    with pytest.raises(ExportError, match=says):
        export(checkpoint, project)
    assert not (project / "store").exists()


def test_weights_of_another_model_are_refused(project: Path) -> None:
    other = saved(project, model={"factory": "myproject.models:net", "kwargs": {"num_classes": 4}})
    with pytest.raises(ExportError, match=r"head\.weight is \[3, 16\]; the model's is \[4, 16\]"):
        export(other, project)


def test_image_settings_out_of_range_are_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"image\.std"):
        export(saved(project, image={**IMAGE, "std": [0.0]}), project)


def test_files_that_are_no_checkpoint_are_refused(project: Path) -> None:
    with pytest.raises(ExportError, match=r"best\.pt does not exist"):
        export(project / "best.pt", project)
    (project / "text.pt").write_text("hello")
    with pytest.raises(ExportError, match=r"text\.pt is no checkpoint that loads safely"):
        export(project / "text.pt", project)
    torch.save([1, 2], project / "list.pt")
    with pytest.raises(ExportError, match=r"list\.pt holds list"):
        export(project / "list.pt", project)
    torch.save({"model": {}}, project / "part.pt")
    with pytest.raises(ExportError, match=r"part\.pt has no weights: it holds model"):
        export(project / "part.pt", project)


def test_what_a_checkpoint_does_not_say_is_asked_for_and_may_be_given(project: Path) -> None:
    state = content()["model_state_dict"]
    torch.save(state, project / "plain.pt")
    with pytest.raises(ExportError, match=r"does not say what makes its model; .*--factory"):
        export(project / "plain.pt", project)
    factory = {"factory": "myproject.models:Net", "factory_kwargs": {"num_classes": 3}}
    with pytest.raises(ExportError, match=r"has no samples, .*--input SHAPE"):
        export(project / "plain.pt", project, **factory)
    report = export(project / "plain.pt", project, **factory, samples=torch.randn(3, 1, 4, 4))
    assert report.parity.num_samples == 3
    lineage = json.loads(read_file(report.path, "MAR-INF/lineage.json") or b"")
    assert lineage["model"] == {
        "factory": "myproject.models:Net",
        "kwargs": {"num_classes": 3},
    }


def test_a_directory_is_known_by_all_of_its_files(project: Path) -> None:
    safetensors.torch.save_file(content()["model_state_dict"], project / "model.safetensors")
    digests = set()
    for note in ("first", "second"):
        (project / "note.txt").write_text(note)
        report = export(
            project,
            project / "store" / note,
            factory="myproject.models:net",
            factory_kwargs={"num_classes": 3},
            samples=torch.randn(3, 1, 4, 4),
        )
        lineage = json.loads(read_file(report.path, "MAR-INF/lineage.json") or b"")
        digests.add(lineage["checkpoint"]["sha256"])
        (project / "store").rename(project.parent / f"store-{note}")
    assert len(digests) == 2


def test_the_command_exports_plain_weights_with_made_up_inputs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content()["model_state_dict"], project / "plain.pt")
    words = ["--checkpoint", "plain.pt", "--factory", "myproject.models:net"]
    words += ["--factory-args", '{"num_classes": 3}', "--input", "1,4,4", "--output", "store"]
    assert command(*words) == 0
    assert "input    x float32 (batch, 1, 4, 4)" in capsys.readouterr().out


def test_the_command_exports_a_hub_s_model(project: Path) -> None:
    (project / "hubconf.py").write_text(
        "dependencies = ['torch']\nfrom myproject.models import net\n"
    )
    np.save(project / "x.npy", np.zeros((2, 1, 4, 4), dtype=np.float32))
    words = ["--hub", f"{project}:net", "--factory-args", '{"num_classes": 3}']
    assert command(*words, "--samples", "x.npy", "--output", "store") == 0
    lineage = json.loads(
        read_file(project / "store" / "animals-1.0.mar", "MAR-INF/lineage.json") or b""
    )
    assert lineage["hub"] == f"{project}:net"
    with pytest.raises(ExportError, match=r"torch\.hub cannot make 'other' in the directory"):
        command("--hub", f"{project}:other", "--samples", "x.npy")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--input", "4,four"], "--input '4,four' is not SHAPE"),
        (["--input", "4:int7"], "--input '4:int7' is not SHAPE"),
        (["--input", "0"], "--input '0' is not SHAPE"),
        (["--input", "4", "--samples", "x.npy"], "--samples and --input both say"),
        (["--samples", "absent.npy"], "--samples absent.npy cannot be read"),
        (["--samples", "hubconf.txt"], "--samples hubconf.txt cannot be read"),
        (["--factory-args", "[1]"], r"--factory-args is \[1\]; make it an object"),
        (["--factory-args", "{"], "--factory-args is not JSON"),
    ],
)
def test_wrong_words_are_named(project: Path, words: list[str], says: str) -> None:
    (project / "hubconf.txt").write_text("no tensors")
    with pytest.raises(ExportError, match=says):
        command("--checkpoint", "x.pt", *words)


class Marker:
    """Pickles to a call that would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_is_not_run(project: Path) -> None:
    torch.save({**content(), "extra": Marker(project / "owned")}, project / "evil.pt")
    with pytest.raises(ExportError, match="tensors and plain data only"):
        export(project / "evil.pt", project)
    assert not (project / "owned").exists()


# the command line


def command(*flags: str) -> int:
    parser = argparse.ArgumentParser()
    configure(parser)
    return run(parser.parse_args(["--name", "animals", "--version", "1.0", *flags]))


def test_the_command_exports_and_prints_what_it_made(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(project)
    (project / "notes.txt").write_text("hello")
    (project / "vocab.txt").write_text("one")
    (project / "settings.yaml").write_text("batchSize: 8\n")
    flags = ["--checkpoint", "best.pt", "--extra-files", "notes.txt,vocab.txt"]
    assert command(*flags, "--config", "settings.yaml", "--method", "script") == 0
    path = project / "model_store" / "animals-1.0.mar"
    printed = capsys.readouterr().out
    assert "model_store/animals-1.0.mar" in printed
    assert hashlib.sha256(path.read_bytes()).hexdigest() in printed
    assert "input    x float32 (batch, 1, 4, 4)" in printed
    assert "32 samples agree" in printed
    assert "top-1 100.0% the same" in printed
    assert read_file(path, "vocab.txt") == b"one"
    assert yaml.safe_load(read_file(path, "model-config.yaml") or b"")["batchSize"] == 8


def test_the_command_finds_factories_in_the_current_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(project)
    monkeypatch.setattr(sys, "path", sys.path[1:])
    for name in [name for name in sys.modules if name.partition(".")[0] == "myproject"]:
        monkeypatch.delitem(sys.modules, name)
    assert command("--checkpoint", "best.pt", "--output", "out/a.mar") == 0
    assert (project / "out" / "a.mar").is_file()


def test_the_command_replaces_an_archive_when_forced(project: Path) -> None:
    saved(project)
    assert command("--checkpoint", "best.pt") == 0
    with pytest.raises(ExportError, match=r"exists; .*--force"):
        command("--checkpoint", "best.pt")
    assert command("--checkpoint", "best.pt", "--force") == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--config", "none.yaml"], r"--config none\.yaml cannot be read"),
        (["--config", "list.yaml"], r"--config list\.yaml holds list"),
        (["--config", "bad.yaml"], r"--config bad\.yaml cannot be read"),
        (["--atol", "-1"], "--atol is -1.0; use a finite number"),
    ],
)
def test_wrong_flags_are_told(project: Path, flags: list[str], says: str) -> None:
    saved(project)
    (project / "list.yaml").write_text("- 1\n")
    (project / "bad.yaml").write_text("a: [\n")
    with pytest.raises(ExportError, match=says):
        command("--checkpoint", "best.pt", *flags)


def test_an_unknown_target_is_refused_before_anything_is_loaded(project: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        command("--checkpoint", "best.pt", "--target", "tflite")
    assert caught.value.code == 2
