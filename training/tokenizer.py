"""A tokenizer from the training texts: their characters, or what byte-pair encoding makes of them.

Equal texts give equal tokens on any machine: ties are broken by the tokens themselves.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from flambeau.tokenizer import SPECIAL, Tokenizer, merged, pieces

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from training.config import TextConfig

Pair = tuple[str, str]


def build_tokenizer(texts: Iterable[str], config: TextConfig) -> Tokenizer:
    """Tokens of the training texts, the most frequent ones if there are more than are wanted.

    Args:
        texts: Of the training split only, so that the others stay unseen.
        config: What tokens are, and how many of them.
    """
    counts = Counter(piece for text in texts for piece in pieces(text))
    characters: Counter[str] = Counter()
    for piece, count in counts.items():
        for character in piece:
            characters[character] += count
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    tokens = [*SPECIAL, *ranked[: config.vocab_size - len(SPECIAL)]]
    merges: list[Pair] = []
    if config.tokenizer == "bpe":
        tokens, merges = _merge_most_frequent(counts, tokens, vocab_size=config.vocab_size)
    return Tokenizer(tokens, merges, max_tokens=config.max_tokens)


def _merge_most_frequent(
    counts: Counter[str], tokens: Sequence[str], *, vocab_size: int
) -> tuple[list[str], list[Pair]]:
    """Byte-pair encoding: the most frequent pair of neighbours becomes a token, again and again.

    Args:
        counts: How often each piece of text occurs.
        tokens: The special ones and characters.
        vocab_size: How many there are to be; fewer when no pair occurs twice any more.

    Returns:
        All tokens, and the pairs in the order in which they were merged.
    """
    known = dict.fromkeys(tokens)
    merges: list[Pair] = []
    pairs = _Pairs(counts, known)
    while len(known) < vocab_size and (pair := pairs.most_frequent()) is not None:
        merges.append(pair)
        known.setdefault("".join(pair))
        pairs.merge(pair)
    return list(known), merges


class _Pairs:
    """How often tokens are neighbours, kept up to date while they are merged."""

    def __init__(self, counts: Counter[str], known: Container[str]) -> None:
        self._words: list[list[str]] = []
        self._word_counts: list[int] = []
        for piece, count in counts.items():
            for is_known, run in groupby(piece, key=known.__contains__):
                if is_known:  # nothing is merged with other characters
                    self._words.append(list(run))
                    self._word_counts.append(count)
        self._counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)  # words that have or had it
        for place in range(len(self._words)):
            self._add(place, sign=1)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        """The pair that occurs most often, the first in order of those; None if none does twice."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if -count == self._counts[pair]:  # else it has changed, and stands there again
                return pair if -count > 1 else None
        return None

    def merge(self, pair: Pair) -> None:
        """Make one token of two wherever they are neighbours."""
        changed: set[Pair] = set()
        for place in sorted(self._places.pop(pair)):
            changed |= self._add(place, sign=-1)
            self._words[place] = merged(self._words[place], pair)
            changed |= self._add(place, sign=1)
        for each in changed:
            heapq.heappush(self._heap, (-self._counts[each], each))

    def _add(self, place: int, *, sign: int) -> set[Pair]:
        """Count a word's pairs, or take them away."""
        count = sign * self._word_counts[place]
        found = set[Pair]()
        for pair in pairwise(self._words[place]):
            self._counts[pair] += count
            self._places[pair].add(place)
            found.add(pair)
        return found
