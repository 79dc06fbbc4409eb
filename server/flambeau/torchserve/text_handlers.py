"""TorchServe's text handlers, for archives whose own handlers derive from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau import text
from flambeau.answers import class_shares
from flambeau.errors import InvalidInput
from flambeau.explanations import word_importances
from flambeau.handler import BaseHandler
from flambeau.step_timing import timed
from flambeau.vocabulary import Vocabulary, read_vocabulary
from flambeau.weights import pickled

if TYPE_CHECKING:
    from flambeau.context import Context


class TextHandler(BaseHandler):
    """Reads the archive's vocabulary, and has the steps that make words of a text.

    Attributes:
        source_vocab: Numbers by token.
        tokenizer: From a text to its words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = Vocabulary({})
        self.tokenizer: Callable[[str], list[str]] = text.tokenize

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.source_vocab = read_vocabulary(
            Path(context.system_properties["model_dir"]),
            name=self.manifest.get("model", {}).get("sourceVocab"),
            allow_pickle=pickled.is_allowed(self.model_yaml_config),
        )

    def get_source_vocab_path(self, ctx: Context) -> str:
        """Where TorchServe's archives have their vocabulary."""
        return str(Path(ctx.system_properties["model_dir"]) / "source_vocab.pt")

    def get_word_token(self, input_tokens: Sequence[int] | torch.Tensor) -> list[str]:
        """Tokens by number; `<unk>` where there is none."""
        numbers = input_tokens.tolist() if isinstance(input_tokens, torch.Tensor) else input_tokens
        return [self.source_vocab.itos.get(number, "<unk>") for number in numbers]

    def _expand_contractions(self, text_: str) -> str:
        return text.with_long_forms(text_)

    def _remove_accented_characters(self, text_: str) -> str:
        return text.without_accents(text_)

    def _remove_html_tags(self, text_: str) -> str:
        return text.without_markup(text_)

    def _remove_punctuation(self, text_: str) -> str:
        return text.without_punctuation(text_)

    def _remove_puncutation(self, text_: str) -> str:
        """TorchServe's first spelling, which handlers still call."""
        return self._remove_punctuation(text_)

    def _tokenize(self, text_: str) -> list[str]:
        return self.tokenizer(text_)


class TextClassifier(TextHandler):
    """Answers with the probabilities of all classes; all requests of a batch share a call.

    Attributes:
        ngrams: The most neighbouring words that make one token.
    """

    ngrams: int = 2

    @timed
    def preprocess(self, data: Sequence[Any]) -> Any:  # noqa: ANN401  # a subclass may differ
        """The numbers of all texts, int64, (N,), and where each text begins, int64, (B,).

        Raises:
            InvalidInput: One of them is no text, or has no word that the model knows.
        """
        rows = [self._numbers_of_row(row) for row in data]
        starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
        flat = [number for row in rows for number in row]
        return torch.tensor(flat, device=self.device), starts.to(self.device)

    def _numbers_of_row(self, row: object) -> list[int]:
        value = row
        if isinstance(row, dict):
            value = row.get("data") or row.get("body")
        if isinstance(value, (bytes, bytearray)):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(f"the text is not UTF-8 ({error.reason})") from error
        if not isinstance(value, str):
            raise InvalidInput(f"the request has a {type(value).__name__}; send text")
        cleaned = self._expand_contractions(self._remove_html_tags(value).lower())
        cleaned = self._remove_punctuation(self._remove_accented_characters(cleaned))
        numbers: list[int] = self.source_vocab.indices(
            list(text.ngrams(self._tokenize(cleaned), self.ngrams))
        )
        if not numbers:
            raise InvalidInput("the text has no word that the model knows; send a longer one")
        return numbers

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # as above
        """Call the model with numbers and beginnings.

        Args:
            data: What `preprocess` gives; or the numbers of one text, alone or beside its words.
            *args: For the model, after those.
            **kwargs: For the model.
        """
        numbers, starts = _unpacked(data)
        return super().inference(numbers, starts.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # a subclass's inference
        """Logits, (B, C), to probabilities by label, in the model's order."""
        return class_shares(data, mapping=self.mapping)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int = 0) -> list[Any]:  # noqa: ANN401, ARG002
        """How much each token adds to the score of one class."""
        numbers, starts = _unpacked(tensor_data)
        importances = word_importances(
            self.model, numbers.to(self.device), starts.to(self.device), target=target
        )
        return [{"importances": importances.tolist(), "words": self.get_word_token(numbers)}]


def _unpacked(data: Any) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401  # three forms
    numbers, beside = data if isinstance(data, tuple) else (data, None)
    return numbers, beside if isinstance(beside, torch.Tensor) else torch.tensor([0])
