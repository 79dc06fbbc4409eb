"""The text of several sequences while they are generated, without a tokenizer library."""

from __future__ import annotations

from queue import Empty

import pytest
import torch

from flambeau.torchserve.text_streamer import TextIteratorStreamerBatch

WORDS = ["Good", "bye", " wor", "ld", "\n", "你", "<end>", " "]


class Tokenizer:
    """Tokens are places in WORDS."""

    def decode(self, token_ids: list[int], /, *, skip_special_tokens: bool = False) -> str:
        words = [WORDS[token] for token in token_ids]
        return "".join(word for word in words if not (skip_special_tokens and word == "<end>"))


def streamed(*tokens: list[int], skip_prompt: bool = False) -> list[list[str]]:
    """What comes out when these tokens were put in, one list with an item per sequence a time."""
    streamer = TextIteratorStreamerBatch(
        Tokenizer(),
        batch_size=len(tokens[0]),
        skip_prompt=skip_prompt,
        timeout=1.0,
        skip_special_tokens=True,
    )
    for step in tokens:
        streamer.put(torch.tensor(step))
    streamer.end()
    return list(streamer)


def test_a_word_comes_out_when_it_is_complete() -> None:
    assert streamed([0], [1], [2], [3]) == [[""], [""], ["Goodbye "], [""], ["world"]]


def test_a_line_and_an_ideograph_come_out_at_once() -> None:
    assert streamed([0], [4], [5]) == [[""], ["Good\n"], ["你"], [""]]


def test_each_sequence_has_its_own_text() -> None:
    assert streamed([0, 3], [7, 4], [6, 3]) == [["", ""], ["Good ", "ld\n"], ["", ""], ["", "ld"]]


def test_prompts_can_be_left_out() -> None:
    streamer = TextIteratorStreamerBatch(Tokenizer(), 2, skip_prompt=True)
    streamer.put(torch.tensor([[0, 1], [2, 3]]))
    streamer.put(torch.tensor([3, 4]))
    streamer.end()
    assert list(streamer) == [["", "\n"], ["ld", ""]]


def test_prompts_come_out_otherwise() -> None:
    streamer = TextIteratorStreamerBatch(Tokenizer(), 2)
    streamer.put(torch.tensor([[0, 7], [2, 3]]))
    streamer.end()
    assert list(streamer) == [["Good ", " "], ["", "world"]]


def test_the_tokens_of_another_number_of_sequences_are_refused() -> None:
    streamer = TextIteratorStreamerBatch(Tokenizer(), 2)
    with pytest.raises(ValueError, match=r"shape \(3,\) for batch_size 2"):
        streamer.put(torch.tensor([1, 2, 3]))


def test_waiting_for_text_has_an_end() -> None:
    with pytest.raises(Empty):
        next(TextIteratorStreamerBatch(Tokenizer(), 1, timeout=0.001))
