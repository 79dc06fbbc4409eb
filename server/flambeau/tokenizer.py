"""`Tokenizer`: from a text to the numbers of its tokens, in training and in serving alike.

Tokens are characters, or what byte-pair encoding (Sennrich et al. 2016) has merged characters into;
`training/tokenizer.py` finds them, and an archive keeps them as `tokenizer.json`. A text is cut
into words, each with the space before it, and nothing is merged across their borders.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

from flambeau.errors import ArchiveError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOKENIZER_FILE: Final = "tokenizer.json"
PADDING: Final = "<pad>"  # number 0: stands behind the end of a text
UNKNOWN: Final = "<unk>"  # number 1: a character that training did not see
SPECIAL: Final = (PADDING, UNKNOWN)
PADDING_ID: Final = SPECIAL.index(PADDING)
UNKNOWN_ID: Final = SPECIAL.index(UNKNOWN)

# Words, punctuation, spaces; cut at 32 characters, so that merging one takes little time.
_PIECE: Final = re.compile(r" ?\w{1,32}| ?[^\w\s]{1,32}|\s{1,32}")
_CACHED_PIECES: Final = 10_000


class Tokenizer:
    """Numbers of tokens.

    Attributes:
        tokens: By number: `<pad>`, `<unk>`, characters, and what merges make of them.
        merges: Pairs of tokens that become one, those that are merged first first; empty where
            tokens are characters.
        max_tokens: How many tokens of a text count, from its start.
    """

    def __init__(
        self, tokens: Sequence[str], merges: Sequence[tuple[str, str]] = (), *, max_tokens: int
    ) -> None:
        self.tokens = list(tokens)
        self.merges = list(merges)
        self.max_tokens = max_tokens
        self._ids_by_token = {token: index for index, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._ids = lru_cache(_CACHED_PIECES)(self._piece_ids)

    def encode(self, text: str) -> list[int]:
        """A text's tokens, at most `max_tokens`; none of an empty one.

        Composed and decomposed letters count alike (Unicode's NFC).
        """
        ids: list[int] = []
        for piece in pieces(text):
            ids += self._ids(piece)
            if len(ids) >= self.max_tokens:
                break
        return ids[: self.max_tokens]

    def _piece_ids(self, piece: str) -> list[int]:
        parts = list(piece)
        while len(parts) > 1:
            ranked = [pair for pair in pairwise(parts) if pair in self._ranks]
            if not ranked:
                break
            parts = merged(parts, min(ranked, key=self._ranks.__getitem__))
        return [self._ids_by_token.get(part, UNKNOWN_ID) for part in parts]

    def to_mapping(self) -> dict[str, Any]:
        """Plain data: what a checkpoint and `tokenizer.json` hold."""
        return {
            "tokens": self.tokens,
            "merges": [list(pair) for pair in self.merges],
            "max_tokens": self.max_tokens,
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Tokenizer:
        """Build from what `to_mapping` gave.

        Raises:
            ConfigError: It is something else; the message names the key.
        """
        tokens, merges = mapping.get("tokens"), mapping.get("merges")
        max_tokens = mapping.get("max_tokens")
        if not _are_texts(tokens) or tuple(tokens[:2]) != SPECIAL or len({*tokens}) < len(tokens):
            raise ConfigError(f"tokenizer.tokens is no list of different texts after {SPECIAL}")
        known = set(tokens)
        if not isinstance(merges, list) or not all(_is_merge(pair, known) for pair in merges):
            raise ConfigError("tokenizer.merges is no list of pairs that make one token of two")
        if type(max_tokens) is not int or max_tokens < 1:
            raise ConfigError(f"tokenizer.max_tokens is {max_tokens!r}; use 1 or more")
        return cls(tokens, [(left, right) for left, right in merges], max_tokens=max_tokens)


def pieces(text: str) -> list[str]:
    """The parts of a text that tokens never cross; together they are all of it."""
    return _PIECE.findall(unicodedata.normalize("NFC", text))


def merged(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """The parts with each occurrence of two neighbours as one, from the left."""
    found: list[str] = []
    place = 0
    while place < len(parts):
        if tuple(parts[place : place + 2]) == pair:
            found.append(pair[0] + pair[1])
            place += 2
        else:
            found.append(parts[place])
            place += 1
    return found


def read_tokenizer(model_dir: Path) -> Tokenizer | None:
    """The tokenizer of an unpacked archive; None if it has none.

    Raises:
        ArchiveError: The file is no tokenizer.
    """
    path = model_dir / TOKENIZER_FILE
    if not path.is_file():
        return None
    try:
        content: object = json.loads(path.read_bytes())
        return Tokenizer.from_mapping(content if isinstance(content, dict) else {})
    except (ValueError, RecursionError, ConfigError) as error:
        raise ArchiveError(f"{path.name} is no tokenizer: {error}; export it again") from error


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(
        isinstance(item, str) for item in cast("list[object]", value)
    )


def _is_merge(pair: object, known: set[str]) -> bool:
    if not isinstance(pair, list | tuple):
        return False
    parts = list(cast("Sequence[object]", pair))
    return len(parts) == 2 and _are_texts(parts) and {*parts, "".join(map(str, parts))} <= known
