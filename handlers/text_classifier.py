"""`text_classifier`: a text in, labels with probabilities out.

The body is text in UTF-8, or a JSON string. The answer has all classes, in the model's order:

    curl -H 'content-type: text/plain' -d 'Stocks fell on Monday' .../predictions/news
    {"World": 0.02, "Sports": 0.01, "Business": 0.95, "Sci/Tec": 0.02}

An archive that `training/` has made brings `tokenizer.json`, which makes tokens as in training; the
model takes their numbers, (B, T), with 0 behind the end of a text. Otherwise, words are tokens:

The text loses HTML and accents, is written in lower case and without short forms and punctuation,
and becomes single words and pairs of neighbours. The archive's vocabulary turns those into numbers:
`vocab.txt` with one token per line, `vocab.json`, or TorchServe's `source_vocab.pt`. The model is
called with the numbers of all texts in one row, and the places where texts begin, as
`torch.nn.EmbeddingBag` takes them. An explanation needs the model's first layer to be `embedding`.

A transformer takes texts side by side, (B, T), and a mask that is true where there is text. Its
YAML says so; texts of similar lengths then share a call, so that little is filled up:

    handler:
      text: {ngrams: 1, padded: true, max_tokens: 128}
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau import text
from flambeau.answers import class_shares
from flambeau.errors import ConfigError, InvalidInput, UnsupportedContentType
from flambeau.explanations import word_importances
from flambeau.padding import calls_by_length, padded
from flambeau.sample_handler import Sample, SampleHandler
from flambeau.text_input import TextInput
from flambeau.tokenizer import PADDING_ID, Tokenizer, read_tokenizer
from flambeau.vocabulary import Vocabulary, read_vocabulary
from flambeau.weights import pickled

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from flambeau.codec import Row
    from flambeau.context import Context

# In tokens: on CPUs, batches of 5 to 128 words cost within 3 % of their least from 32 to 128.
CALL_COST = 64


class TextClassifier(SampleHandler):
    """Classifies texts.

    Attributes:
        ngrams: The most neighbouring words that make one token, unless the YAML says otherwise.
        text_input: What the YAML says.
        tokenizer: Of the archive, if it has one; then there are no n-grams and no vocabulary.
        source_vocab: Numbers by token.
    """

    ngrams: int = 2
    text_input: TextInput = TextInput()
    tokenizer: Tokenizer | None = None
    source_vocab: Vocabulary

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        settings = self.model_yaml_config.get("handler")
        mapping = settings.get("text") if isinstance(settings, dict) else None
        if isinstance(mapping, dict):
            self.text_input = TextInput.from_mapping(mapping)
        elif mapping is not None:
            raise ConfigError(f"handler.text is {mapping!r}; write keys such as `ngrams: 1`")
        self.ngrams = self.text_input.ngrams or self.ngrams
        model_dir = Path(context.system_properties["model_dir"])
        self.tokenizer = read_tokenizer(model_dir)
        if self.tokenizer is not None:
            return
        self.source_vocab = read_vocabulary(
            model_dir,
            name=self.manifest.get("model", {}).get("sourceVocab"),
            allow_pickle=pickled.is_allowed(self.model_yaml_config),
        )

    def tokens(self, words: str) -> list[str]:
        """What a text is to the model; tokens without a number are left out."""
        vocabulary = self.source_vocab
        tokens = list(text.ngrams(text.words_of(words), self.ngrams))
        if vocabulary.default_index is None:
            tokens = [token for token in tokens if token in vocabulary]
        if not tokens:
            raise InvalidInput("the text has no word that the model knows; send a longer one")
        return tokens[: self.text_input.max_tokens]

    def decode(self, row: Row, idx: int) -> Sample:
        """One text's numbers, int64, (N,)."""
        words = self._text(row, idx)
        if self.tokenizer is not None:
            return (torch.tensor(self.tokenizer.encode(words)),)
        return (torch.tensor(self.source_vocab.indices(self.tokens(words))),)

    def _text(self, row: Row, idx: int) -> str:
        name = "data" if "data" in row else "body"
        value = self.value(row, name, idx)
        if isinstance(value, (bytes, bytearray)):
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise UnsupportedContentType(
                    f"{name} is not text in UTF-8 ({error.reason} at byte {error.start})"
                ) from error
        if not isinstance(value, str):
            raise InvalidInput(f"{name} is a {type(value).__name__}; send text")
        return value

    def sharing(self, sample: Sample) -> Hashable:  # noqa: ARG002  # all do
        """Texts of all lengths share a call."""
        return None

    def calls(self, samples: Sequence[Sample]) -> Iterable[Sequence[int]]:
        """Padded texts share a call with those of similar lengths, on CPUs at least."""
        call_cost = self.text_input.call_cost
        if call_cost is None and self.device.type == "cpu":
            call_cost = CALL_COST
        if call_cost is None or not self._is_cut_by_length():
            return super().calls(samples)
        return calls_by_length([len(row) for (row,) in samples], call_cost=call_cost)

    def collate(self, samples: Sequence[Sample]) -> tuple[Any, ...]:
        """All numbers in one row, and where each text begins; or, padded, tokens and mask."""
        rows = [row for (row,) in samples]
        if self.tokenizer is not None:
            return (self._filled(rows),)
        if self.text_input.padded:
            stoi = self.source_vocab.stoi
            return padded(rows, filler=stoi.get("<pad>", stoi.get("[PAD]", 0)))
        lengths = torch.tensor([0, *(len(row) for row in rows[:-1])])
        return torch.cat(rows), lengths.cumsum(0)

    def _is_cut_by_length(self) -> bool:
        """Whether the model computes less for shorter texts that share a call."""
        if self.tokenizer is not None:
            return self._length() is None
        return self.text_input.padded

    def _length(self) -> int | None:
        """The only one that the program takes; None if it takes any."""
        shape = () if self.signature is None else self.signature.inputs[0].shape
        return shape[1] if len(shape) > 1 else None

    def _filled(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Texts side by side, (B, T), as long as the longest or as the program wants them."""
        tokens_BT, _ = padded(rows, filler=PADDING_ID)
        missing = (self._length() or 0) - tokens_BT.shape[1]
        return torch.nn.functional.pad(tokens_BT, (0, max(0, missing)), value=PADDING_ID)

    def postprocess(self, data: Any) -> list[dict[str, float]]:  # noqa: ANN401  # models vary
        """Logits, (B, C), to probabilities by label."""
        return class_shares(data, mapping=self.mapping)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int) -> list[Any]:  # noqa: ANN401, ARG002
        """How much each token adds to the score of one class."""
        if self.tokenizer is not None:
            return [self._token_importances(self.tokenizer, tensor_data, target)]
        tokens, beside = tensor_data  # one text's, padded or not
        importances = word_importances(self.model, tokens, beside, target=target)
        words = [self.source_vocab.itos.get(index, "<unk>") for index in tokens.flatten().tolist()]
        return [{"importances": importances.tolist(), "words": words}]

    def _token_importances(
        self, tokenizer: Tokenizer, tokens_1T: torch.Tensor, target: int
    ) -> dict[str, Any]:
        importances = word_importances(
            self.model, tokens_1T, target=target, padding_index=PADDING_ID
        )
        ids: list[int] = tokens_1T.flatten().tolist()
        num_tokens = sum(index != PADDING_ID for index in ids)
        return {
            "importances": importances[:num_tokens].tolist(),
            "words": [tokenizer.tokens[index] for index in ids[:num_tokens]],
        }
