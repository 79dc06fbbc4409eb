from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from flambeau.errors import ArchiveError, ConfigError
from flambeau.messages import Failure, FailureKind, Input
from tests.handlers.serving import answers, explanations, part, serve

if TYPE_CHECKING:
    from pathlib import Path

    from flambeau.instance import ModelInstance

WORDS = ["<unk>", "bad", "good", "not", "not good", "cafe"]
NAMES = {"0": "negative", "1": "positive"}

pytestmark = pytest.mark.usefixtures("imports_are_undone")


class Sentiment(torch.nn.Module):
    """Adds up how bad and how good each token is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(len(WORDS), 2, mode="sum")
        self.fc = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.embedding.weight.copy_(
                torch.tensor([[0, 0], [2, 0], [0, 2], [0, 0], [4, 0], [0, 1]])
            )
            self.fc.weight.copy_(torch.eye(2))

    def forward(self, text: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.fc(self.embedding(text, offsets))  # type: ignore[no-any-return]


def load(root: Path, *, names: dict[str, str] | None = NAMES) -> ModelInstance:
    files = {"vocab.txt": "\n".join(WORDS)}
    if names is not None:
        files["index_to_name.json"] = json.dumps(names)
    return serve(root, Sentiment(), handler="text_classifier", files=files)


def text(body: str | bytes) -> Input:
    return part(body, "text/plain; charset=utf-8")


def shares(bad: float, good: float) -> list[float]:
    """Probabilities of a text with these scores."""
    rounded: list[float] = torch.tensor([bad, good]).float().softmax(0).tolist()
    return rounded


def test_an_answer_has_all_classes_in_the_models_order(tmp_path: Path) -> None:
    (answer,) = answers(load(tmp_path), text("good"))
    assert list(answer) == ["negative", "positive"]
    np.testing.assert_allclose(list(answer.values()), shares(0, 2), rtol=1e-6)


def test_without_labels_classes_are_named_by_index(tmp_path: Path) -> None:
    (answer,) = answers(load(tmp_path, names=None), text("good"))
    assert list(answer) == ["0", "1"]


def test_every_request_of_a_batch_is_answered(tmp_path: Path) -> None:
    batch = [text("good good"), text("bad"), text("who knows?"), text("GOOD & bad")]
    found = [list(answer.values()) for answer in answers(load(tmp_path), *batch)]
    expected = [shares(0, 4), shares(2, 0), shares(0, 0), shares(2, 2)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "bad", "good"),
    [
        ("not good", 4, 2),  # the pair counts, too
        ("isn't good", 4, 2),
        ("<b>Good</b>&nbsp;", 0, 2),
        ("Café!", 0, 1),
        ("good, bad; (good)", 2, 4),
    ],
)
def test_texts_are_cleaned_before_they_are_looked_up(
    tmp_path: Path, body: str, bad: float, good: float
) -> None:
    (answer,) = answers(load(tmp_path), text(body))
    np.testing.assert_allclose(list(answer.values()), shares(bad, good), rtol=1e-6)


def test_text_comes_as_json_and_bytes_too(tmp_path: Path) -> None:
    forms = [text("bad"), part('"bad"', "application/json"), part("bad"), part("bad", name="data")]
    found = [list(answer.values()) for answer in answers(load(tmp_path), *forms)]
    np.testing.assert_allclose(found, [shares(2, 0)] * 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (
            part(b"\xff\xfe", "text/plain"),
            FailureKind.UNSUPPORTED_CONTENT_TYPE,
            "not text in UTF-8",
        ),
        (text(""), FailureKind.INVALID_INPUT, "is empty"),
        (text("<br/> ?!"), FailureKind.INVALID_INPUT, "no word that the model knows"),
        (part("[1]", "application/json"), FailureKind.INVALID_INPUT, "is a list; send text"),
        (part("x", name="words"), FailureKind.INVALID_INPUT, "expected 'body'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_fails_alone(
    tmp_path: Path, bad: Input, kind: FailureKind, message: str
) -> None:
    before, failure, after = answers(load(tmp_path), text("bad"), bad, text("good"))
    np.testing.assert_allclose(list(before.values()), shares(2, 0), rtol=1e-6)
    np.testing.assert_allclose(list(after.values()), shares(0, 2), rtol=1e-6)
    assert isinstance(failure, Failure)
    assert failure.kind is kind
    assert message in failure.message


def test_an_explanation_tells_what_each_word_adds(tmp_path: Path) -> None:
    instance = load(tmp_path)
    asked = [text("Not good, bad"), part("0", name="target")]
    (answer,) = explanations(instance, *asked)
    assert answer["words"] == ["not", "good", "bad", "not good", "<unk>"]
    np.testing.assert_allclose(answer["importances"], [0, 0, 2, 4, 0], atol=1e-5)
    (plain,) = answers(instance, text("bad"))  # the model is as it was
    np.testing.assert_allclose(list(plain.values()), shares(2, 0), rtol=1e-6)


def test_an_explanation_of_a_class_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for target, message in (("2", "has 2 classes, 0 to 1"), ("x", "target is bytearray(b'x')")):
        (failure,) = explanations(load(tmp_path / target), text("bad"), part(target, name="target"))
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.INVALID_INPUT
        assert message in failure.message


class Widths(torch.nn.Module):
    """The class of a text is how wide its call was."""

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(tokens.shape[0], 200)
        logits[:, tokens.shape[1]] = 100.0
        return logits


class Attentive(torch.nn.Module):
    """Each word looks at all words of its text; the scores are what it sees, on average."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(WORDS), 2, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.arange(12).reshape(6, 2).cos())

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        words = self.embedding(tokens)
        likeness = (words @ words.transpose(1, 2)).masked_fill(~mask[:, None, :], -1e9)
        seen = likeness.softmax(2) @ words * mask.unsqueeze(2)
        return seen.sum(1) / mask.sum(1, keepdim=True)  # type: ignore[no-any-return]


def load_padded(root: Path, model: torch.nn.Module, **settings: int) -> ModelInstance:
    text_input = {"padded": True, "ngrams": 1, **settings}
    yaml = f"handler: {json.dumps({'text': text_input})}"
    files = {"vocab.txt": "\n".join(WORDS)}
    return serve(root, model, handler="text_classifier", yaml=yaml, files=files)


MIXED = ("good", "bad " * 100, "not", "cafe " * 90, "bad")


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({}, [1, 100, 1, 100, 1]),
        ({"call_cost": 1000}, [100] * 5),
        ({"call_cost": 0}, [1, 100, 1, 90, 1]),
        ({"max_tokens": 8}, [8] * 5),
        ({"ngrams": 2, "call_cost": 0}, [1, 199, 1, 179, 1]),
    ],
)
def test_padded_texts_share_calls_with_texts_of_similar_lengths(
    tmp_path: Path, settings: dict[str, int], widths: list[int]
) -> None:
    found = answers(load_padded(tmp_path, Widths(), **settings), *map(text, MIXED))
    assert [max(answer, key=answer.get) for answer in found] == list(map(str, widths))


def test_a_padded_text_is_answered_the_same_in_any_company(tmp_path: Path) -> None:
    instance = load_padded(tmp_path, Attentive(), call_cost=1000)
    alone = [list(answers(instance, text(body))[0].values()) for body in MIXED]
    together = [list(answer.values()) for answer in answers(instance, *map(text, MIXED))]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert len({round(share, 5) for share, _ in alone}) == 4  # two have the same word only


def test_a_padded_text_is_explained_word_by_word(tmp_path: Path) -> None:
    (answer,) = explanations(load_padded(tmp_path, Attentive()), text("Not good, bad"))
    assert answer["words"] == ["not", "good", "bad"]
    assert min(map(abs, answer["importances"])) > 0.01


def test_settings_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    files = {"vocab.txt": "good"}
    with pytest.raises(ConfigError, match=r"handler\.text is 'padded'; write keys such as"):
        serve(
            tmp_path,
            Sentiment(),
            handler="text_classifier",
            yaml="handler: {text: padded}",
            files=files,
        )


def test_an_archive_without_a_vocabulary_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"has no vocabulary \(source_vocab.pt, vocab.json, voc"):
        serve(tmp_path, Sentiment(), handler="text_classifier")


class Vowels(torch.nn.Module):
    """Counts how many tokens are `a` and how many are `b`; padding and unknown count for none."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(4, 2, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding(x).sum(dim=1)  # type: ignore[no-any-return]


class Ten(torch.nn.Module):
    """The same, for ten tokens only."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Vowels().embedding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding(x.reshape(-1, 10)).sum(dim=1)  # type: ignore[no-any-return]


TOKENIZER = json.dumps({"tokens": ["<pad>", "<unk>", "a", "b"], "merges": [], "max_tokens": 10})
SIGNATURE = json.dumps(
    {
        "inputs": [{"name": "x", "dtype": "int64", "shape": [None, 10]}],
        "outputs": [{"name": "output_0", "dtype": "float32", "shape": [None, 2]}],
    }
)


@pytest.mark.parametrize("fixed", [False, True])
def test_an_archive_with_a_tokenizer_needs_no_vocabulary(tmp_path: Path, fixed: bool) -> None:  # noqa: FBT001  # a case
    files = {"tokenizer.json": TOKENIZER} | ({"MAR-INF/signature.json": SIGNATURE} if fixed else {})
    model = Ten() if fixed else Vowels()
    instance = serve(tmp_path, model, handler="text_classifier", files=files)
    texts = ["a", "bbbb", "aXb", "a" * 30]
    found = [list(answer.values()) for answer in answers(instance, *map(text, texts))]
    expected = [shares(1, 0), shares(0, 4), shares(1, 1), shares(10, 0)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_explanation_has_the_tokens_of_the_text_only(tmp_path: Path) -> None:
    files = {"tokenizer.json": TOKENIZER, "MAR-INF/signature.json": SIGNATURE}
    instance = serve(tmp_path, Ten(), handler="text_classifier", files=files)
    (found,) = explanations(instance, text("baX"), part("0", name="target"))
    assert found["words"] == ["b", "a", "<unk>"]
    np.testing.assert_allclose(found["importances"], [0, 1, 0], atol=1e-6)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"tokenizer\.json is no tokenizer"):
        serve(tmp_path, Vowels(), handler="text_classifier", files={"tokenizer.json": "{}"})
