"""`Vocabulary`: the number of each word, from a file of an archive.

Read are, in this order: the file that the manifest's `sourceVocab` names, `source_vocab.pt`,
`vocab.json` and `vocab.txt`.

| file | content |
|---|---|
| `.txt` | one token per line; the first is number 0 |
| `.json` | an object of numbers by token, or a list of tokens |
| `.pt` | the same by `torch.save`, or a `Vocab` of torchtext, which need not be installed |
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch

from flambeau.errors import ArchiveError
from flambeau.weights import pickled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_FILES: Final = ("source_vocab.pt", "vocab.json", "vocab.txt")
_UNKNOWN: Final = ("<unk>", "[UNK]")


class Vocabulary:
    """Numbers by token.

    Attributes:
        stoi: Number by token; distinct, 0 or more.
        itos: Token by number.
        default_index: The number of tokens that are not in it; None when they have none.
    """

    def __init__(self, stoi: Mapping[str, int], *, default_index: int | None = None) -> None:
        """A vocabulary; without `default_index` unknown tokens count as `<unk>`, if it has that."""
        unknown = next((stoi[token] for token in _UNKNOWN if token in stoi), None)
        self.stoi = dict(stoi)
        self.itos = {index: token for token, index in stoi.items()}
        self.default_index = unknown if default_index is None else default_index

    def __len__(self) -> int:
        return len(self.stoi)

    def __contains__(self, token: object) -> bool:
        return token in self.stoi

    def __getitem__(self, token: str) -> int:
        """The token's number.

        Raises:
            KeyError: It is not in the vocabulary, and unknown tokens have no number.
        """
        index = self.stoi.get(token, self.default_index)
        if index is None:
            raise KeyError(token)
        return index

    def __call__(self, tokens: Sequence[str]) -> list[int]:
        """Numbers in order; torchtext's call for handlers that make it.

        Raises:
            KeyError: One is not in the vocabulary, and unknown tokens have no number.
        """
        return [self[token] for token in tokens]

    def get_stoi(self) -> dict[str, int]:
        """Numbers by token, as torchtext calls them."""
        return dict(self.stoi)

    def get_itos(self) -> list[str]:
        """Tokens in the order of their numbers, as torchtext calls them."""
        return [token for _, token in sorted(self.itos.items())]

    def indices(self, tokens: Iterable[str]) -> list[int]:
        """Numbers in order; unknown tokens are left out when they have none."""
        numbers, unknown = self.stoi, self.default_index
        if unknown is None:
            return [numbers[token] for token in tokens if token in numbers]
        return [numbers.get(token, unknown) for token in tokens]


def read_vocabulary(
    model_dir: Path, *, name: str | None = None, allow_pickle: bool = False
) -> Vocabulary:
    """The vocabulary of an unpacked archive.

    Args:
        model_dir: Its folder.
        name: The file; None looks for the usual names.
        allow_pickle: Whether a `.pt` file that holds anything else may run code to make it.

    Raises:
        ArchiveError: There is no such file, or it holds no vocabulary.
    """
    names = [name] if name else _FILES
    path = next((model_dir / name for name in names if (model_dir / name).is_file()), None)
    if path is None:
        raise ArchiveError(
            f"the archive has no vocabulary ({', '.join(names)}); add one with --extra-files"
        )
    match path.suffix:
        case ".txt":
            content: object = path.read_text(encoding="utf-8").splitlines()
        case ".json":
            content = _read_json(path)
        case _:
            content = _read_torch(path, allow_pickle=allow_pickle)
    vocabulary = _vocabulary(content)
    if vocabulary is None:
        raise ArchiveError(
            f"{path.name} holds a {type(content).__name__} that is no vocabulary; write tokens to "
            "vocab.txt, one per line, in the order of their numbers"
        )
    return vocabulary


class TorchtextVocab:
    """What stands in for torchtext's classes when their files are read."""

    def __setstate__(self, state: object) -> None:
        """Take a state of any release: since 0.9 numbers and tokens in a tuple, before a dict."""
        self.state = state

    def vocabulary(self) -> Vocabulary | None:
        match self.state:
            case {"vocab": TorchtextVocab() as inner}:
                return inner.vocabulary()
            case (str(), list() as numbers, list() as tokens, _):
                vocabulary = _vocabulary(tokens)
                if vocabulary is not None and numbers:
                    vocabulary.default_index = int(numbers[0])
                return vocabulary
            case {"stoi": Mapping() as stoi}:
                vocabulary = _vocabulary(dict(stoi))
                if vocabulary is not None and vocabulary.default_index is None:
                    vocabulary.default_index = 0  # of words that it did not know
                return vocabulary
            case _:
                return None


# A class of its own for each name, as PyTorch looks them up by class.
_STAND_INS: Final = tuple(
    (type("TorchtextVocab", (TorchtextVocab,), {}), f"torchtext.{name}")
    for name in ("vocab.vocab.Vocab", "_torchtext.Vocab", "vocab.Vocab", "legacy.vocab.Vocab")
)


def _vocabulary(content: object) -> Vocabulary | None:
    if isinstance(content, TorchtextVocab):
        return content.vocabulary()
    if isinstance(content, list):
        content = {token: index for index, token in enumerate(content)}
    if not isinstance(content, Mapping):  # an object of another library with torchtext's attribute
        content = getattr(content, "stoi", None) or _called(content, "get_stoi")
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(t, str) and type(i) is int and i >= 0 for t, i in content.items()):
        return Vocabulary(content)
    return None


def _called(content: object, name: str) -> object:
    method: Any = getattr(content, name, None)
    return method() if callable(method) else None


def _read_json(path: Path) -> object:
    try:
        content: object = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArchiveError(f"{path.name} is not JSON ({error})") from error
    return content


def _read_torch(path: Path, *, allow_pickle: bool) -> object:
    try:
        with torch.serialization.safe_globals([*_STAND_INS, OrderedDict]):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds
        if allow_pickle:
            return pickled.load(path, device=torch.device("cpu"))
        raise ArchiveError(
            f"{path.name} is neither a dict of numbers by token nor a vocabulary of torchtext "
            f"({pickled.refusal(error)}); write tokens to vocab.txt, one per line, or, "
            f"{pickled.WAY_OUT}"
        ) from error
    return content
