from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch

import flambeau
from flambeau.bare_model import bare_model
from flambeau.messages import OptimizeLevel

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("level", OptimizeLevel)
def test_an_archive_is_a_model_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: OptimizeLevel
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.path", [*sys.path])  # loading puts the archive in front
    model = torch.nn.Linear(3, 2).eval()
    inputs = torch.randn(4, 3)
    archive = tmp_path / "linear.mar"
    flambeau.export(model, inputs, name="linear", version="1", path=archive)
    with bare_model(archive, max_batch_size=4, num_threads=1, level=level) as bare:
        torch.testing.assert_close(bare.inference(inputs), model(inputs))
        assert bare.check.startswith("4 samples, max abs error")
        assert bool(bare.optimization) is (level is not OptimizeLevel.OFF)
