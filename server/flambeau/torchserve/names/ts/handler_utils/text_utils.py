"""TorchServe's names for text to words."""

from flambeau.text import ngrams as ngrams_iterator
from flambeau.torchserve.util import get_tokenizer

__all__ = ["get_tokenizer", "ngrams_iterator"]
