"""Text to words, as TorchServe's text classifier and torchtext's `basic_english` make them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

_MARKUP: Final = re.compile(r"<[^>]*>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});", re.IGNORECASE)
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_SPACED: Final = re.compile(r"([.,()!?'])")  # a word of its own, each
_SPACES: Final = re.compile(r"[;:]|<br />")

_SUBJECTS: Final = {
    "i": "i am",
    **{word: f"{word} is" for word in ("he", "she", "it", "that", "there")},
    **{word: f"{word} are" for word in ("you", "we", "they")},
}
_QUESTIONS: Final = ("how", "what", "when", "where", "who", "why")
_NEGATED: Final = (
    *("are", "could", "did", "does", "do", "had", "has", "have", "is", "may", "might", "must"),
    *("need", "ought", "should", "was", "were", "would"),
)


def _contractions() -> dict[str, str]:
    """Long forms by short form, in lower case."""
    forms = {
        **{f"{word}n't": f"{word} not" for word in _NEGATED},
        **{f"{word}n't've": f"{word} not have" for word in _NEGATED},
        **{f"{word}'ve": f"{word} have" for word in _NEGATED},
        "ain't": "is not",
        "can't": "cannot",
        "can't've": "cannot have",
        "shan't": "shall not",
        "sha'n't": "shall not",
        "shan't've": "shall not have",
        "won't": "will not",
        "won't've": "will not have",
        "will've": "will have",
        "'cause": "because",
        "here's": "here is",
        "let's": "let us",
        "ma'am": "madam",
        "o'clock": "of the clock",
        "so's": "so as",
        "so've": "so have",
        "to've": "to have",
        "y'all": "you all",
        "y'all're": "you all are",
        "y'all've": "you all have",
        "y'all'd": "you all would",
        "y'all'd've": "you all would have",
    }
    for word, be in _SUBJECTS.items():
        short = {"am": "'m", "is": "'s", "are": "'re"}[be.rpartition(" ")[2]]
        forms |= {
            f"{word}{short}": be,
            f"{word}'d": f"{word} would",
            f"{word}'d've": f"{word} would have",
            f"{word}'ll": f"{word} will",
            f"{word}'ll've": f"{word} will have",
            f"{word}'ve": f"{word} have",
        }
    for word in _QUESTIONS:
        forms |= {
            f"{word}'s": f"{word} is",
            f"{word}'re": f"{word} are",
            f"{word}'d": f"{word} did" if word in {"how", "where"} else f"{word} would",
            f"{word}'ll": f"{word} will",
            f"{word}'ve": f"{word} have",
        }
    return forms


CONTRACTIONS: Final[Mapping[str, str]] = _contractions()
_SHORT_FORM: Final = re.compile(
    r"(?<!\w)(?=\w*')(?:"
    + "|".join(map(re.escape, sorted(CONTRACTIONS, key=len, reverse=True)))
    + r")\b",
    re.IGNORECASE,
)


def without_markup(text: str) -> str:
    """The text without HTML's tags and entities."""
    return _MARKUP.sub("", text)


def with_long_forms(text: str) -> str:
    """`I'd` becomes `I would`, `don't` becomes `do not`; other apostrophes go."""
    if "'" not in text:
        return text
    return _SHORT_FORM.sub(_long_form, text).replace("'", "")


def without_accents(text: str) -> str:
    """Only ASCII is left: accents go, as does what has no letter beneath them."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def without_punctuation(text: str) -> str:
    """The text without ASCII's punctuation."""
    return text.translate(_PUNCTUATION)


def tokenize(text: str) -> list[str]:
    """Words in lower case; punctuation is a word of its own, or goes, as in `basic_english`."""
    return _SPACED.sub(r" \1 ", _SPACES.sub(" ", text.lower().replace('"', ""))).split()


def words_of(text: str) -> list[str]:
    """All of the above, in TorchServe's order."""
    text = with_long_forms(without_markup(text).lower())
    # `tokenize` would find no punctuation any more; an accent's letter may be a capital again
    return without_punctuation(without_accents(text)).lower().split()


def ngrams(words: Sequence[str], size: int) -> Iterator[str]:
    """All words, then all pairs of neighbours, and so on up to `size` of them, spaces between."""
    yield from words
    for length in range(2, size + 1):
        yield from map(" ".join, zip(*(words[start:] for start in range(length)), strict=False))


def _long_form(match: re.Match[str]) -> str:
    long = CONTRACTIONS[match.group().lower()]
    return long[0].upper() + long[1:] if match.group()[0].isupper() else long
