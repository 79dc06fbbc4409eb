"""Weights from whatever training left, into a model, or the reason why not."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from flambeau.errors import ExportError
from flambeau.exporting.fitting import load_weights
from flambeau.exporting.weights_file import read_content, weights_in


def net(width: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


STATE = net().state_dict()
PREFIXED = {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}
LIGHTNING = {
    "state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()},
    "epoch": 3,
    "pytorch-lightning_version": "2.6.0",
    "hyper_parameters": {"lr": 0.1},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
}


SAVE_SHARDS = """
import sys
import torch
from torch.distributed.checkpoint.state_dict_saver import save

state = torch.load(sys.argv[1])
save(state, checkpoint_id=sys.argv[2], no_dist=True)
save({"model": state, "optimizer": {"step": 3}}, checkpoint_id=sys.argv[3], no_dist=True)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, `plain` and `nested`, from a process of their own, as training is one."""
    directory = tmp_path_factory.mktemp("saved")
    torch.save(STATE, directory / "state.pt")
    paths = [directory / name for name in ("state.pt", "plain", "nested")]
    command = [sys.executable, "-W", "ignore", "-c", SAVE_SHARDS, *map(str, paths)]
    subprocess.run(command, check=True)
    return directory


@pytest.fixture
def shards(saved: Path, tmp_path: Path) -> Path:
    """A copy of the plain ones, to be damaged."""
    return shutil.copytree(saved / "plain", tmp_path / "shards")


def fitted(path: Path) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    load_weights(model, weights_in(read_content(path), path=path), source=path)
    return model


def assert_fits(path: Path) -> None:
    for name, tensor in fitted(path).state_dict().items():
        assert torch.equal(tensor, STATE[name])


@pytest.mark.parametrize(
    "content",
    [STATE, {"model_state_dict": STATE, "epoch": 1}, {"model": STATE}, PREFIXED, LIGHTNING],
    ids=["plain", "ours", "nested", "wrapped", "lightning"],
)
def test_a_file_of_torch_save(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "w.ckpt")
    assert_fits(tmp_path / "w.ckpt")


def test_safetensors_in_one_file_and_in_several(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    assert_fits(tmp_path / "model.safetensors")
    assert_fits(tmp_path)
    several = tmp_path / "several"
    several.mkdir()
    places = {name: f"part-{number}.safetensors" for number, name in enumerate(STATE)}
    for name, file in places.items():
        safetensors.torch.save_file({name: STATE[name]}, several / file)
    (several / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert_fits(several)


@pytest.mark.parametrize("name", ["plain", "nested"])
def test_shards_of_distributed_training(saved: Path, name: str) -> None:
    assert_fits(saved / name)


class Runs:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_what_would_run_code_is_refused_and_not_run(tmp_path: Path, shards: Path) -> None:
    mark = tmp_path / "was-run"
    torch.save({"model": Runs(mark)}, tmp_path / "w.pt")
    with pytest.raises(ExportError, match=r"no checkpoint that loads safely, .* posix\.mkdir"):
        read_content(tmp_path / "w.pt")
    (shards / ".metadata").write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(ExportError, match=r"it names posix\.mkdir"):
        read_content(shards)
    (shards / ".metadata").write_bytes(b"ctorch.distributed.checkpoint.filesystem\nos.system\n.")
    with pytest.raises(ExportError, match="it names"):
        read_content(shards)
    owner = b"cbuiltins\ngetattr\n(ctorch.distributed.checkpoint.metadata\n%b\nV%b\ntR."
    (shards / ".metadata").write_bytes(owner % (b"Metadata", b"__init__"))
    with pytest.raises(ExportError, match="which is no member"):
        read_content(shards)
    (shards / ".metadata").write_bytes(owner % (b"_MEM_FORMAT_ENCODING", b"TORCH_PRESERVE_FORMAT"))
    with pytest.raises(ExportError, match="not a description of shards"):  # read, but alone
        read_content(shards)
    (shards / ".metadata").write_bytes(b"ctorch.distributed.checkpoint.filesystem\nos\n.")
    with pytest.raises(ExportError, match="it names"):
        read_content(shards)
    assert not mark.exists()


def test_a_missing_shard_and_a_cut_description_are_named(tmp_path: Path, shards: Path) -> None:
    (shards / "__0_0.distcp").rename(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match=r"cannot be put together .*with all of its files"):
        read_content(shards)
    (shards / ".metadata").write_bytes((shards / ".metadata").read_bytes()[:100])
    with pytest.raises(ExportError, match="cannot be read"):
        read_content(shards)


def test_what_is_no_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(ExportError, match="does not exist; give the file"):
        read_content(path)
    path.write_bytes(b"PK\3\4 cut off")
    with pytest.raises(ExportError, match="or is damaged"):
        read_content(path)
    torch.save([1], path)
    with pytest.raises(ExportError, match="holds list, not a checkpoint's dict"):
        read_content(path)
    path.unlink()
    with pytest.raises(ExportError, match=r"is a directory without \.metadata"):
        read_content(tmp_path)


def test_an_index_may_not_lead_elsewhere(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(ExportError, match="not a file beside it"):
        read_content(tmp_path)
    index.write_text("[]")
    with pytest.raises(ExportError, match="is no index of weights"):
        read_content(tmp_path)


def test_a_dict_without_weights_says_what_it_holds() -> None:
    with pytest.raises(ExportError, match=r"it holds epoch, lr; give a state dict"):
        weights_in({"epoch": 1, "lr": 0.1}, path=Path("w.pt"))


def test_names_that_do_not_fit_stand_side_by_side() -> None:
    other = {name.replace("weight", "weights"): tensor for name, tensor in STATE.items()}
    with pytest.raises(ExportError) as caught:
        load_weights(net(), other, source="w.pt")
    message = str(caught.value)
    assert "the weights in w.pt do not fit Sequential:" in message
    assert "0.weight is missing; there is 0.weights" in message
    assert "2.weights is not the model's; it has 2.weight" in message
    assert "0.bias" not in message


def test_shapes_that_do_not_fit_stand_side_by_side_and_nothing_is_loaded() -> None:
    model = net(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ExportError, match=r"0\.weight is \[3, 4\]; the model's is \[5, 4\]"):
        load_weights(model, STATE, source="w.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_long_list_of_differences_is_cut() -> None:
    other = {f"layer{number}.x": torch.zeros(1) for number in range(30)}
    with pytest.raises(ExportError, match="and 26 more"):
        load_weights(net(), other, source="w.pt")
