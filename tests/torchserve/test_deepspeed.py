"""Handlers that run their model on DeepSpeed; a file stands in for the library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flambeau.context import Context
from flambeau.errors import ArchiveError
from flambeau.torchserve.deepspeed import (
    BaseDeepSpeedHandler,
    create_checkpoints_json,
    get_ds_engine,
)

pytestmark = pytest.mark.usefixtures("imports_are_undone")


def context(root: Path, **deepspeed: str) -> Context:
    (root / "ds.json").write_text('{"dtype": "fp16"}')
    yaml = {"deepspeed": deepspeed} if deepspeed else {}
    return Context("mine", str(root), {}, 1, None, "0.1", model_yaml_config=yaml)


@pytest.fixture
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "deepspeed.py").write_text(
        "def init_inference(model, **arguments):\n    return model, arguments\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.mark.usefixtures("_stand_in")
def test_the_yaml_names_a_configuration(tmp_path: Path) -> None:
    engine = get_ds_engine("model", context(tmp_path, config="ds.json"))
    assert engine == ("model", {"config": {"dtype": "fp16"}})


@pytest.mark.usefixtures("_stand_in")
def test_a_list_of_the_checkpoints_parts_is_made(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    for name in ("b.bin", "a.pt", "readme.txt"):
        (tmp_path / "weights" / name).write_text("")
    given = context(tmp_path, config="ds.json", checkpoint="checkpoints.json")
    _, arguments = get_ds_engine("model", given)
    assert arguments["checkpoint"] == str(tmp_path / "checkpoints.json")
    document = json.loads((tmp_path / "checkpoints.json").read_text())
    assert [Path(part).name for part in document["checkpoints"]] == ["a.pt", "b.bin"]


@pytest.mark.usefixtures("_stand_in")
def test_a_list_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints.json").write_text("mine")
    get_ds_engine("model", context(tmp_path, config="ds.json", checkpoint="checkpoints.json"))
    assert (tmp_path / "checkpoints.json").read_text() == "mine"


def test_a_list_of_no_parts_is_empty(tmp_path: Path) -> None:
    create_checkpoints_json(tmp_path, tmp_path / "list.json")
    assert json.loads((tmp_path / "list.json").read_text())["checkpoints"] == []


def test_the_base_handler_leaves_the_model_to_its_subclass(tmp_path: Path) -> None:
    handler = BaseDeepSpeedHandler()
    given = context(tmp_path, config="ds.json")
    handler.initialize(given)
    assert handler.model is None
    assert not handler.initialized
    assert handler.model_yaml_config == given.model_yaml_config
    assert handler.map_location == handler.device.type


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no deepspeed\.config"):
        get_ds_engine("model", context(tmp_path))
    with pytest.raises(ArchiveError, match=r"names 'gone\.json', which is not there"):
        get_ds_engine("model", context(tmp_path, config="gone.json"))
    with pytest.raises(ModuleNotFoundError, match="deepspeed"):
        get_ds_engine("model", context(tmp_path, config="ds.json"))
