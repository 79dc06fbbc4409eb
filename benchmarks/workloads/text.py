"""Texts of 5 to 128 words, and a small transformer that classifies them, in files.

Everything is made by seed. The files are what an archive takes, so that each server loads the same:

    files = write_text_model(directory)
    bodies = [text.encode() for text in texts(1000)]

`text_model.py` is the model, `text_handler.py` a handler for it as one writes it for TorchServe;
`text_classifier` needs only the YAML.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.workloads import text_model

NUM_TOKENS: Final = 4096
MIN_WORDS: Final = 5
MAX_WORDS: Final = 128
CLASSES: Final = ("World", "Sports", "Business", "Sci/Tech")

# Lengths as of what people write: half of the texts are shorter than this, few are very long.
MEDIAN_WORDS: Final = 32
SPREAD: Final = 0.8  # of the logarithm

_MODEL_FILE: Final = Path(text_model.__file__)
_HANDLER_FILE: Final = _MODEL_FILE.with_name("text_handler.py")
_SPECIAL: Final = ("<pad>", "<unk>")
_YAML: Final = "handler:\n  text: {ngrams: 1, padded: true, max_tokens: 128}\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFiles:
    """An archive's parts, in one directory.

    Attributes:
        model_file: The Python file with the one model class, made without arguments.
        weights: Its state dict, by `torch.save`.
        vocabulary: One token per line; the first, number 0, is for filling up.
        labels: `index_to_name.json`.
        yaml: What Flambeau's `text_classifier` has to know.
        handler: For TorchServe: a subclass of its `BaseHandler`.
    """

    model_file: Path
    weights: Path
    vocabulary: Path
    labels: Path
    yaml: Path
    handler: Path


def write_text_model(directory: Path, *, seed: int = 0) -> TextFiles:
    """Write the model with random weights, its vocabulary and its labels.

    Args:
        directory: Made if it is not there.
        seed: Of the weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = TextFiles(
        model_file=directory / _MODEL_FILE.name,
        weights=directory / "weights.pt",
        vocabulary=directory / "vocab.txt",
        labels=directory / "index_to_name.json",
        yaml=directory / "model-config.yaml",
        handler=directory / _HANDLER_FILE.name,
    )
    shutil.copyfile(_MODEL_FILE, files.model_file)
    shutil.copyfile(_HANDLER_FILE, files.handler)
    torch.save(make_model(seed=seed).state_dict(), files.weights)
    files.vocabulary.write_text("\n".join((*_SPECIAL, *words())) + "\n", encoding="utf-8")
    files.labels.write_text(json.dumps(dict(enumerate(CLASSES))), encoding="utf-8")
    files.yaml.write_text(_YAML, encoding="utf-8")
    return files


def make_model(*, seed: int = 0) -> text_model.TextTransformer:
    """The model, ready to be called; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = text_model.TextTransformer()
        torch.nn.init.normal_(model.head.weight)  # so that classes differ
    return model.eval()


def words() -> list[str]:
    """The vocabulary without its special tokens: made of syllables, none a short form."""
    syllables = [f"{consonant}{vowel}" for consonant, vowel in product("bdfgklmnprstvz", "aeiou")]
    made = ("".join(parts) for parts in product(syllables, repeat=2))
    return [word for word, _ in zip(made, range(NUM_TOKENS - len(_SPECIAL)), strict=False)]


def texts(num: int, *, seed: int = 0) -> list[str]:
    """Texts of words, spaces and commas; frequent words are common, as in any language.

    Args:
        num: How many.
        seed: Of lengths and words.
    """
    rng = np.random.default_rng(seed)
    vocabulary = np.array(words())
    frequencies = 1 / np.arange(1, len(vocabulary) + 1)
    frequencies /= frequencies.sum()
    lengths = np.exp(rng.normal(np.log(MEDIAN_WORDS), SPREAD, num)).round()
    chosen = (
        rng.choice(vocabulary, int(length), p=frequencies)
        for length in lengths.clip(MIN_WORDS, MAX_WORDS)
    )
    return [_sentence(list(some)) for some in chosen]


def _sentence(chosen: list[str]) -> str:
    with_commas = [f"{word}," if place % 9 == 8 else word for place, word in enumerate(chosen)]
    return " ".join(with_commas).rstrip(",").capitalize() + "."
