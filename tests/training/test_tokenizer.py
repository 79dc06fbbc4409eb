from __future__ import annotations

import pytest

from training.config import TextConfig
from training.tokenizer import build_tokenizer

TEXTS = ["low low low low low", "lower lower", "newest newest newest", "widest widest widest"]


def test_the_most_frequent_pairs_become_tokens_first() -> None:
    tokenizer = build_tokenizer(TEXTS, TextConfig(vocab_size=18))
    assert tokenizer.tokens[:2] == ["<pad>", "<unk>"]
    assert tokenizer.merges[:2] == [("l", "o"), ("lo", "w")]  # 7 times, as many as any other
    assert len(tokenizer.tokens) == 18
    assert tokenizer.tokens[-1] == "".join(tokenizer.merges[-1])


def test_equal_texts_give_equal_tokens_in_any_order() -> None:
    first, second = (build_tokenizer(texts, TextConfig()) for texts in (TEXTS, TEXTS[::-1]))
    assert first.to_mapping() == second.to_mapping()


def test_what_occurs_once_is_not_merged() -> None:
    assert build_tokenizer(["abc"], TextConfig()).merges == []


def test_a_known_word_is_one_token_and_every_text_can_be_read() -> None:
    tokenizer = build_tokenizer(TEXTS, TextConfig())
    assert len(tokenizer.encode("low")) == 1
    assert len(tokenizer.encode("newest")) == 1
    shown = [tokenizer.tokens[index] for index in tokenizer.encode("low slow")]
    assert "".join(shown) == "low slow"


def test_repeated_letters_are_merged_from_the_left() -> None:
    tokenizer = build_tokenizer(["aaaaa aaaaa"], TextConfig(vocab_size=5))
    assert tokenizer.merges == [("a", "a")]
    assert [tokenizer.tokens[index] for index in tokenizer.encode("aaaaa")] == ["aa", "aa", "a"]


@pytest.mark.parametrize(
    "config",
    [TextConfig(tokenizer="characters", vocab_size=4), TextConfig(tokenizer="bpe", vocab_size=4)],
    ids=["characters", "bpe"],
)
def test_rare_characters_are_unknown_where_there_are_too_many(config: TextConfig) -> None:
    tokenizer = build_tokenizer(["aaa bbb c"], config)
    assert tokenizer.tokens == ["<pad>", "<unk>", "a", "b"]
    assert tokenizer.encode("abc") == [2, 3, 1]


def test_characters_are_tokens() -> None:
    tokenizer = build_tokenizer(TEXTS, TextConfig(tokenizer="characters"))
    assert tokenizer.merges == []
    assert len(tokenizer.encode("newest")) == 6
