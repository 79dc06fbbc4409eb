"""Weights from what DeepSpeed's ZeRO leaves; the files are recorded by `record_zero.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from flambeau.errors import ExportError
from flambeau.exporting.fitting import load_weights
from flambeau.exporting.weights_file import read_content, weights_in
from tests.server.exporting.record_zero import DIRECTORY, Net
from tests.server.exporting.test_weights import Runs

STAGES = ("stage-0", "stage-1", "stage-2", "stage-3")
STEP = "global_step3"
MODEL = "mp_rank_00_model_states.pt"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A copy of stage 1's, to be damaged."""
    return shutil.copytree(DIRECTORY / "stage-1", tmp_path / "shards")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("inner", ["", STEP])
def test_shares_become_the_weights_that_deepspeed_had(stage: str, inner: str) -> None:
    path = DIRECTORY / stage / inner
    weights = weights_in(read_content(path), path=path)
    load_weights(Net(), weights, source=path)
    expected = safetensors.torch.load_file(DIRECTORY / stage / "expected.safetensors")
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(weights[name].to(tensor.dtype), tensor), name


@pytest.mark.parametrize("stage", STAGES[1:])
def test_what_was_trained_is_in_all_its_digits(stage: str) -> None:
    """The optimizer's numbers, not the model's of 16 bits."""
    weight = read_content(DIRECTORY / stage)["embedding.weight"]
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize(
    ("stage", "pattern"),
    [
        ("stage-1", "*_optim_states.pt"),
        ("stage-3", "*_optim_states.pt"),
        ("stage-3", "*_model_states.pt"),
    ],
)
def test_the_files_of_a_rank_that_is_missing_are_named(
    tmp_path: Path, stage: str, pattern: str
) -> None:
    path = shutil.copytree(DIRECTORY / stage, tmp_path / "shards")
    first, second = sorted((path / STEP).glob(pattern))
    second.unlink()
    with pytest.raises(ExportError) as caught:
        read_content(path)
    assert f"has 1 {pattern}, and 2 ranks wrote it; copy the directory again" in str(caught.value)
    first.unlink()
    with pytest.raises(ExportError) as caught:
        read_content(path)
    assert f"has no {pattern}" in str(caught.value)


@pytest.mark.parametrize("name", ["../elsewhere", "", ".", "global_step4"])
def test_latest_leads_to_a_directory_beside_it_or_nowhere(shards: Path, name: str) -> None:
    (shards / "latest").write_text(name, encoding="utf-8")
    with pytest.raises(ExportError, match="which is no directory beside it"):
        read_content(shards)


def test_a_model_that_was_cut_itself_is_not_half_read(shards: Path) -> None:
    shutil.copy(shards / STEP / MODEL, shards / STEP / "mp_rank_01_model_states.pt")
    with pytest.raises(ExportError, match=r"mp_rank_01_model_states\.pt: the model itself was cut"):
        read_content(shards)


def test_what_would_run_code_is_refused_and_not_run(shards: Path, tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    for name in (MODEL, "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"):
        torch.save({"module": Runs(mark)}, shards / STEP / name)
        with pytest.raises(ExportError, match=r"loads safely, .* names posix\.mkdir, which"):
            read_content(shards)
    assert not mark.exists()


def test_what_is_laid_out_otherwise_leads_to_deepspeed_s_own_program(shards: Path) -> None:
    content = torch.load(shards / STEP / MODEL)
    content["param_shapes"] = [{"embedding.weight": torch.Size([9, 9])}]
    torch.save(content, shards / STEP / MODEL)
    with pytest.raises(ExportError, match=r"is not as DeepSpeed lays it out .*zero_to_fp32\.py"):
        read_content(shards)
    torch.save({"optimizer_state_dict": {}}, next((shards / STEP).glob("*rank_0*optim_states.pt")))
    with pytest.raises(ExportError, match=r"is no share of ZeRO's: KeyError\('zero_stage'\)"):
        read_content(shards)
    torch.save([1], shards / STEP / MODEL)
    with pytest.raises(ExportError, match="holds list, not a checkpoint's dict"):
        read_content(shards)
