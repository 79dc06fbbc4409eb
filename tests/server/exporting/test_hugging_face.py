"""Folders of Hugging Face, as far as that needs no transformers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambeau.errors import ExportError
from flambeau.exporting.command import configure, run
from flambeau.exporting.hugging_face import export_hugging_face, with_tensors
from flambeau.exporting.module import export


def folder(root: Path, **config: object) -> Path:
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text(json.dumps(config))
    return root


def command(*flags: str) -> int:
    parser = argparse.ArgumentParser()
    configure(parser)
    return run(parser.parse_args([*flags, "--name", "mine", "--version", "1"]))


def test_without_transformers_the_way_to_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    root = folder(tmp_path / "bert", architectures=["BertModel"])
    with pytest.raises(ExportError, match=r"not installed; pip install transformers$"):
        command("--hugging-face", str(root))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"architectures": []},
        {"architectures": ["A", "B"]},
        {"architectures": None},
        {"architectures": ["A"], "id2label": ["a"]},
        {"architectures": ["A"], "id2label": {"one": "a"}},
    ],
)
def test_a_config_that_names_no_class_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match=r"config\.json does not name a model's class"):
        export_hugging_face(
            folder(tmp_path, **config), name="mine", version="1", path=tmp_path / "x.mar"
        )


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"config\.json does not name .* give a folder"):
        command("--hugging-face", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--factory", "a:b"], "leave --factory out"),
        (["--factory-args", "{}"], "leave --factory out"),
        (["--samples", "absent.safetensors"], r"cannot be read .* named as the model's arguments$"),
    ],
)
def test_wrong_words_are_named(tmp_path: Path, words: list[str], says: str) -> None:
    root = folder(tmp_path, architectures=["BertModel"])
    with pytest.raises(ExportError, match=says):
        command("--hugging-face", str(root), *words)


class Classifier(nn.Module):
    """Takes and gives what models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        return_dict: bool | None = None,
    ) -> Mapping[str, Any]:
        assert return_dict
        states = self.embedding(input_ids)
        if attention_mask is not None:
            states = states * attention_mask.unsqueeze(2)
        return {"logits": states.sum(1), "past_key_values": None, "states": (states,)}


def test_a_model_s_arguments_and_outputs_keep_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier().eval()
    ids, mask = torch.randint(20, (3, 5)), torch.randint(2, (3, 5))
    report = export(
        with_tensors(model, ["input_ids", "attention_mask"]),
        (ids, mask),
        name="mine",
        version="1",
        path=tmp_path / "mine.mar",
        target="torch_export",
    )
    assert [spec.name for spec in report.signature.inputs] == ["input_ids", "attention_mask"]
    assert [spec.name for spec in report.signature.outputs] == ["logits"]
