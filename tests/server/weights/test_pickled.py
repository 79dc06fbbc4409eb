from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from flambeau.loading import load_handler
from flambeau.messages import LoadModel
from flambeau.testing import make_archive

if TYPE_CHECKING:
    from pathlib import Path

    from flambeau.loading import EntryPoint


class Note:
    """Something that only a pickle holds."""

    text = "kept"


HANDLER = """
import torch

class Mine:
    def initialize(self, context):
        self.note = torch.load("NOTE")

    def handle(self, data, context):
        return [self.note.text for _ in data]
"""


@pytest.mark.usefixtures("imports_are_undone")
def test_a_handlers_own_torch_load_unpickles_once_the_yaml_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")  # so that it is undone later
    torch.save(Note(), tmp_path / "note.pt")
    source = HANDLER.replace("NOTE", str(tmp_path / "note.pt"))
    strict = make_archive(tmp_path, name="strict", handler=source)
    with pytest.raises(Exception, match="Weights only load failed"):
        load(strict, tmp_path / "strict")
    yaml = "handler: {allow_pickle: true}"
    trusting = make_archive(tmp_path, name="trusting", handler=source, model_yaml=yaml)
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        entry_point = load(trusting, tmp_path / "trusting")
    assert entry_point.call([{}], entry_point.context) == ["kept"]


def load(archive: Path, folder: Path) -> EntryPoint:
    """Unpack an archive and load its handler."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            file.extract(name, folder)
    return load_handler(LoadModel("mine", "1", str(folder), None, "cpu", 1, 1, 1_000, "0.1"))
