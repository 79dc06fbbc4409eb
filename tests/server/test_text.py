from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau import text
from flambeau.text import CONTRACTIONS


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("I'd say it isn't", "I would say it is not"),
        ("Can't, won't, shan't", "Cannot, will not, shall not"),
        ("you've they're we'll i'm", "you have they are we will i am"),
        ("couldn't've", "could not have"),
        ("what's o'clock", "what is of the clock"),
        ("y'all'd've", "you all would have"),
        ("Peter's dogs' tails", "Peters dogs tails"),
        ("DON'T", "Do not"),
    ],
)
def test_short_forms_are_written_out(short: str, long: str) -> None:
    assert text.with_long_forms(short) == long


def test_markup_accents_and_punctuation_go() -> None:
    assert text.without_markup('<p class="x">a&amp;b&#39;</p>') == "ab"
    assert text.without_accents("Émile, naïve, 日本") == "Emile, naive, "
    assert text.without_punctuation("a-b, (c)!") == "ab c"


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        (
            'Hello, World! it\'s (fine); 5:30 "quoted" text<br />x y.z?  ok',
            "hello , world ! it ' s ( fine ) 5 30 quoted text x y . z ? ok",
        ),
        ("don't & won't", "don ' t & won ' t"),
    ],
)
def test_words_are_those_of_basic_english(sentence: str, words: str) -> None:
    """The words are what torchtext 0.18 gives."""
    assert text.tokenize(sentence) == words.split()


def test_a_classifier_sees_plain_words() -> None:
    assert text.words_of("<b>She's</b> at the Café, isn't she?") == (
        ["she", "is", "at", "the", "cafe", "is", "not", "she"]
    )


PIECES = st.sampled_from(
    [
        *CONTRACTIONS,
        "'",
        "n't",
        "'ve",
        "é",
        "ﬁ",
        "\N{DOUBLE-STRUCK CAPITAL H}",
        "'",
        " ",
        "\n",
        ".",
        "x",
        "I",
        "_",
        "<b>",
        "&amp;",
    ]
)


@given(pieces=st.lists(PIECES, max_size=6))
def test_shortcuts_change_no_word(pieces: list[str]) -> None:
    """What is skipped for speed would have found nothing."""
    sentence = "".join(pieces)
    every = "|".join(map(re.escape, sorted(CONTRACTIONS, key=len, reverse=True)))
    written_out = re.sub(
        rf"(?<!\w)(?:{every})\b",
        lambda match: CONTRACTIONS[match.group()],
        text.without_markup(sentence).lower(),
    ).replace("'", "")
    cleaned = text.without_punctuation(text.without_accents(written_out))
    assert text.words_of(sentence) == text.tokenize(cleaned)


def test_longer_neighbourhoods_come_after_all_shorter_ones() -> None:
    words = ["a", "b", "c"]
    assert list(text.ngrams(words, 1)) == words
    assert list(text.ngrams(words, 2)) == [*words, "a b", "b c"]
    assert list(text.ngrams(words, 3)) == [*words, "a b", "b c", "a b c"]
    assert list(text.ngrams([], 2)) == []
