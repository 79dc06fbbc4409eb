from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from flambeau.errors import ArchiveError
from flambeau.vocabulary import Vocabulary, read_vocabulary

EXPECTED = {"<unk>": 0, "b": 1, "a": 2, "c": 3}


def stoi_of(folder: Path, name: str | None = None) -> dict[str, int]:
    return read_vocabulary(folder, name=name).stoi


def test_a_text_file_has_one_token_per_line(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("<unk>\nb\na\nc\n", encoding="utf-8")
    assert stoi_of(tmp_path) == EXPECTED


@pytest.mark.parametrize("content", [EXPECTED, list(EXPECTED)])
def test_json_has_an_object_or_a_list(tmp_path: Path, content: object) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    assert stoi_of(tmp_path) == EXPECTED


@pytest.mark.parametrize("content", [EXPECTED, list(EXPECTED), Counter(EXPECTED)])
def test_torch_save_may_have_written_them(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "source_vocab.pt")
    assert stoi_of(tmp_path) == EXPECTED


def test_a_vocabulary_of_torchtext_is_read_without_it(tmp_path: Path) -> None:
    """The file is what torchtext 0.18 made of these tokens, with 0 for all others."""
    shutil.copy(Path(__file__).with_name("torchtext_vocab.pt"), tmp_path / "source_vocab.pt")
    vocabulary = read_vocabulary(tmp_path)
    assert vocabulary.stoi == EXPECTED
    assert vocabulary.default_index == 0


def test_a_vocabulary_of_an_old_torchtext_is_read_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 0.9 it was an object of these attributes."""
    vocab = type("Vocab", (), {"__module__": "torchtext.vocab"})
    old = vocab()
    attributes = {"freqs": Counter("abb"), "itos": ["b", "a"], "vectors": None, "unk_index": None}
    vars(old).update(attributes, stoi={"b": 0, "a": 1})
    module = ModuleType("torchtext.vocab")
    vars(module)["Vocab"] = vocab
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchtext", ModuleType("torchtext"))
        patch.setitem(sys.modules, "torchtext.vocab", module)
        torch.save(old, tmp_path / "source_vocab.pt")
    vocabulary = read_vocabulary(tmp_path)
    assert vocabulary.stoi == {"b": 0, "a": 1}
    assert vocabulary["unheard"] == 0


def test_the_manifest_may_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("<unk>\nb\na\nc")
    (tmp_path / "vocab.txt").write_text("other")
    assert stoi_of(tmp_path, "words.txt") == EXPECTED


def test_unknown_tokens_have_the_number_of_their_stand_in() -> None:
    vocabulary = Vocabulary(EXPECTED)
    assert vocabulary["x"] == vocabulary["<unk>"] == 0
    assert vocabulary.indices(["x", "a"]) == [0, 2]
    assert len(vocabulary) == 4
    assert vocabulary.itos[3] == "c"


def test_handlers_may_ask_as_they_asked_torchtext() -> None:
    vocabulary = Vocabulary(EXPECTED)
    assert vocabulary(["c", "x"]) == [3, 0]
    assert vocabulary.get_stoi() == EXPECTED
    assert vocabulary.get_itos() == list(EXPECTED)


def test_unknown_tokens_without_a_stand_in_are_left_out() -> None:
    vocabulary = Vocabulary({"a": 0})
    assert vocabulary.indices(["x", "a"]) == [0]
    with pytest.raises(KeyError):
        vocabulary["x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", b"{", "vocab.json is not JSON"),
        ("vocab.json", b'{"a": "b"}', "no vocabulary; write tokens to vocab.txt"),
        ("vocab.json", b"3", "holds a int that is no vocabulary"),
        ("vocab.txt", b"", "holds a list that is no vocabulary"),
        ("source_vocab.pt", b"hello", "allow_pickle: true"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArchiveError, match=message):
        read_vocabulary(tmp_path)


class Tokens:
    """A vocabulary of a library of the author's."""

    def get_stoi(self) -> dict[str, int]:
        return EXPECTED


def test_an_object_of_another_library_needs_a_trusted_author(tmp_path: Path) -> None:
    torch.save(Tokens(), tmp_path / "source_vocab.pt")
    with pytest.raises(ArchiveError, match=r"write `handler: {allow_pickle: true}`"):
        read_vocabulary(tmp_path)
    assert read_vocabulary(tmp_path, allow_pickle=True).stoi == EXPECTED
