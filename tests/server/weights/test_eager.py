from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from flambeau.context import Context
from flambeau.errors import ArchiveError
from flambeau.handler import BaseHandler

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("imports_are_undone")

MODEL_FILE = """
import torch

class Double(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, values):
        return values * self.factor
"""
ALLOWED = {"handler": {"allow_pickle": True}}


class Note:
    """Something a checkpoint may hold beside its tensors."""


def load(
    root: Path,
    weights: str | None,
    *,
    source: str = MODEL_FILE,
    yaml: dict[str, Any] | None = None,
) -> BaseHandler:
    """A handler with the model of `source`."""
    (root / "double.py").write_text(source)
    manifest = {"model": {"modelFile": "double.py", "serializedFile": weights}}
    handler = BaseHandler()
    handler.initialize(Context("mine", str(root), manifest, 4, None, "0.1", model_yaml_config=yaml))
    return handler


def test_a_model_takes_its_weights_from_a_state_dict(tmp_path: Path) -> None:
    torch.save({"factor": torch.tensor(3.0)}, tmp_path / "weights.bin")
    handler = load(tmp_path, "weights.bin")
    assert not handler.model.training
    assert handler.inference(torch.tensor([1.0, 2.0])).tolist() == [3.0, 6.0]


def test_a_model_takes_its_weights_from_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file({"factor": torch.tensor(3.0)}, tmp_path / "w.safetensors")
    handler = load(tmp_path, "w.safetensors")
    assert handler.inference(torch.tensor([1.0, 2.0])).tolist() == [3.0, 6.0]


def test_a_model_without_weights_is_as_it_is_made(tmp_path: Path) -> None:
    assert load(tmp_path, None).inference(torch.tensor([1.0])).tolist() == [2.0]


def test_inference_records_no_gradients(tmp_path: Path) -> None:
    assert not load(tmp_path, None).inference(torch.tensor([1.0])).requires_grad


def test_weights_that_are_more_than_tensors_are_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"factor": torch.tensor(3.0), "note": Note()}, tmp_path / "weights.bin")
    refused = r"weights.bin holds more than tensors.*state_dict.*handler: {allow_pickle: true}"
    for yaml in (None, {"handler": {"allow_pickle": False}}):
        with pytest.raises(ArchiveError, match=refused):
            load(tmp_path, "weights.bin", yaml=yaml)


def test_weights_of_a_trusted_author_may_be_a_pickle(tmp_path: Path) -> None:
    torch.save({"factor": torch.tensor(3.0), "note": Note()}, tmp_path / "weights.bin")
    forgiving = MODEL_FILE + (
        "    def load_state_dict(self, weights):\n"
        "        return super().load_state_dict({'factor': weights['factor']})\n"
    )
    handler = load(tmp_path, "weights.bin", source=forgiving, yaml=ALLOWED)
    assert handler.inference(torch.tensor([1.0])).tolist() == [3.0]


def test_a_setting_that_is_no_truth_value_is_refused(tmp_path: Path) -> None:
    torch.save({"factor": torch.tensor(3.0)}, tmp_path / "weights.bin")
    with pytest.raises(ArchiveError, match="allow_pickle is 'yes'; write true or false"):
        load(tmp_path, "weights.bin", yaml={"handler": {"allow_pickle": "yes"}})


@pytest.mark.parametrize("yaml", [None, ALLOWED])
def test_weights_that_are_no_state_dict_are_refused(
    tmp_path: Path, yaml: dict[str, Any] | None
) -> None:
    torch.save(torch.ones(1), tmp_path / "weights.bin")
    with pytest.raises(ArchiveError, match="holds a Tensor, not a state dict"):
        load(tmp_path, "weights.bin", yaml=yaml)


@pytest.mark.parametrize("name", ["weights.bin", "weights.safetensors"])
def test_damaged_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(ArchiveError, match=re.escape(name) + ".*damaged"):
        load(tmp_path, name)


def test_files_that_the_archive_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"weights 'gone.pt', which are not in the archive"):
        load(tmp_path, "gone.pt")
    (tmp_path / "double.py").unlink()
    context = Context("mine", str(tmp_path), {"model": {"modelFile": "gone.py"}}, 4, None, "0.1")
    with pytest.raises(ArchiveError, match=r"model file 'gone.py', which is not in the archive"):
        BaseHandler().initialize(context)


def test_a_model_file_with_two_models_is_refused(tmp_path: Path) -> None:
    two = MODEL_FILE + MODEL_FILE.replace("Double", "Twice")
    with pytest.raises(ArchiveError, match=r"only one class as model.*Double, Twice; keep exactly"):
        load(tmp_path, None, source=two)
