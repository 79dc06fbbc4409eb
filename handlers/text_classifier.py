"""`text_classifier`: a text in, labels with probabilities out.

The body is text in UTF-8, or a JSON string. The answer has all classes, in the model's order:

    curl -H 'content-type: text/plain' -d 'Stocks fell on Monday' .../predictions/news
    {"World": 0.02, "Sports": 0.01, "Business": 0.95, "Sci/Tec": 0.02}

The text loses HTML and accents, is written in lower case and without short forms and punctuation,
and becomes single words and pairs of neighbours. The archive's vocabulary turns those into numbers:
`vocab.txt` with one token per line, `vocab.json`, or TorchServe's `source_vocab.pt`. The model is
called with the numbers of all texts in one row, and the places where texts begin, as
`torch.nn.EmbeddingBag` takes them. An explanation needs the model's first layer to be `embedding`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau import text
from flambeau.answers import class_shares
from flambeau.errors import InvalidInput, UnsupportedContentType
from flambeau.explanations import word_importances
from flambeau.sample_handler import Sample, SampleHandler
from flambeau.vocabulary import Vocabulary, read_vocabulary
from flambeau.weights import pickled

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from flambeau.codec import Row
    from flambeau.context import Context


class TextClassifier(SampleHandler):
    """Classifies texts.

    Attributes:
        ngrams: The most neighbouring words that make one token.
        source_vocab: Numbers by token.
    """

    ngrams: int = 2
    source_vocab: Vocabulary

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.source_vocab = read_vocabulary(
            Path(context.system_properties["model_dir"]),
            name=self.manifest.get("model", {}).get("sourceVocab"),
            allow_pickle=pickled.is_allowed(self.model_yaml_config),
        )

    def tokens(self, words: str) -> list[str]:
        """What a text is to the model; tokens without a number are left out."""
        vocabulary = self.source_vocab
        is_known = [
            token
            for token in text.ngrams(text.words_of(words), self.ngrams)
            if token in vocabulary or vocabulary.default_index is not None
        ]
        if not is_known:
            raise InvalidInput("the text has no word that the model knows; send a longer one")
        return is_known

    def decode(self, row: Row, idx: int) -> Sample:
        """One text's numbers, int64, (N,)."""
        words = self._text(row, idx)
        return (torch.tensor([self.source_vocab[token] for token in self.tokens(words)]),)

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

    def collate(self, samples: Sequence[Sample]) -> tuple[Any, ...]:
        """All numbers in one row, and where each text begins."""
        rows = [row for (row,) in samples]
        lengths = torch.tensor([0, *(len(row) for row in rows[:-1])])
        return torch.cat(rows), lengths.cumsum(0)

    def postprocess(self, data: Any) -> list[dict[str, float]]:  # noqa: ANN401  # models vary
        """Logits, (B, C), to probabilities by label."""
        return class_shares(data, mapping=self.mapping)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int) -> list[Any]:  # noqa: ANN401, ARG002
        """How much each token adds to the score of one class."""
        tokens, offsets = tensor_data
        importances = word_importances(self.model, tokens, offsets, target=target)
        words = [self.source_vocab.itos.get(index, "<unk>") for index in tokens.tolist()]
        return [{"importances": importances.tolist(), "words": words}]
