from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from flambeau.weights import pickled

if TYPE_CHECKING:
    from pathlib import Path


class Note:
    """Something that only a pickle holds."""

    text = "kept"


def test_a_handlers_own_torch_load_unpickles_once_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")  # so that it is undone later
    torch.save(Note(), tmp_path / "note.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "note.pt")
    pickled.allow_in_this_process()
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        assert torch.load(tmp_path / "note.pt").text == "kept"
