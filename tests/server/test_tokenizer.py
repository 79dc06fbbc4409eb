from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.errors import ArchiveError, ConfigError
from flambeau.tokenizer import Tokenizer, pieces, read_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = ["<pad>", "<unk>", "l", "o", "w", "e", " ", "lo", "low"]
MERGES = [("l", "o"), ("lo", "w")]


def mapping(**changes: object) -> dict[str, Any]:
    return {**Tokenizer(TOKENS, MERGES, max_tokens=9).to_mapping(), **changes}


def test_earlier_merges_come_first_and_unknown_characters_have_a_number() -> None:
    tokenizer = Tokenizer(TOKENS, MERGES, max_tokens=9)
    assert tokenizer.encode("lowel") == [8, 5, 2]
    assert tokenizer.encode("low?") == [8, 1]
    assert tokenizer.encode("") == []


def test_nothing_is_merged_across_words() -> None:
    assert Tokenizer(TOKENS, MERGES, max_tokens=9).encode("l ow") == [2, 6, 3, 4]


def test_a_text_is_cut_where_the_model_ends() -> None:
    assert Tokenizer(TOKENS, MERGES, max_tokens=3).encode("low low low") == [8, 6, 8]
    assert len(Tokenizer(TOKENS, max_tokens=5).encode("low" * 1_000_000)) == 5


def test_letters_composed_or_not_are_the_same() -> None:
    tokenizer = Tokenizer(["<pad>", "<unk>", "é"], max_tokens=9)
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é") == [2]


def test_pieces_are_all_of_a_text() -> None:
    text = "  def f(x):\n\treturn x*2  # größer \u3042\u3044" + "y" * 100
    assert "".join(pieces(text)) == text
    assert max(map(len, pieces(text))) <= 33


def test_a_tokenizer_comes_back_from_plain_data(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(mapping()))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.to_mapping() == mapping()
    assert read_tokenizer(tmp_path.parent) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokenizer.tokens is no list"),
        ({"tokens": ["a", "b"]}, "tokenizer.tokens is no list"),
        ({"tokens": [*TOKENS, "l"]}, "tokenizer.tokens is no list"),
        ({"tokens": [*TOKENS, 3]}, "tokenizer.tokens is no list"),
        ({"merges": "lo"}, "tokenizer.merges is no list"),
        ({"merges": [["l"]]}, "tokenizer.merges is no list"),
        ({"merges": [["w", "e"]]}, "tokenizer.merges is no list"),
        ({"merges": [3]}, "tokenizer.merges is no list"),
        ({"max_tokens": True}, "tokenizer.max_tokens is True"),
        ({"max_tokens": 0}, "tokenizer.max_tokens is 0"),
    ],
)
def test_what_is_no_tokenizer_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_mapping(mapping(**changes))


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"tokenizer\.json is no tokenizer: "):
        read_tokenizer(tmp_path)
