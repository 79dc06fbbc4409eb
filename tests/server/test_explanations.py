from __future__ import annotations

import pytest
import torch

from flambeau import torchscript
from flambeau.errors import HandlerFailed, InvalidInput
from flambeau.explanations import IntegratedGradients, word_importances


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    return torch.nn.Sequential(*layers, torch.nn.Linear(4 * 36, 5)).eval()


class Words(torch.nn.Module):
    """Adds up the vectors of the words of each text."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(3, 2, mode="sum", sparse=sparse)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]))

    def forward(self, tokens: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens, offsets)  # type: ignore[no-any-return]


@pytest.mark.parametrize("baseline", [None, 1.0, torch.full((1, 3, 8, 8), 0.5)])
def test_attributions_add_up_to_the_difference_of_the_scores(
    baseline: torch.Tensor | float | None,
) -> None:
    model, images = net(), torch.randn(2, 3, 8, 8)
    found = IntegratedGradients(model).attribute(images, baselines=baseline, target=2, n_steps=200)
    assert found.shape == images.shape
    start = torch.zeros_like(images) + (0.0 if baseline is None else baseline)
    difference = (model(images) - model(start))[:, 2].detach()
    torch.testing.assert_close(found.sum((1, 2, 3)), difference, rtol=1e-3, atol=1e-3)


def test_an_input_made_in_inference_mode_is_explained() -> None:
    with torch.inference_mode():
        images = torch.ones(1, 3, 8, 8)
    assert IntegratedGradients(net()).attribute(images, target=0).shape == images.shape


def test_a_model_may_take_more_than_what_is_explained() -> None:
    def scaled(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return (values * factor).sum(1)

    found = IntegratedGradients(scaled).attribute(
        torch.ones(1, 2), additional_forward_args=torch.tensor([1.0, 5.0])
    )
    torch.testing.assert_close(found, torch.tensor([[1.0, 5.0]]))


def test_a_class_that_is_not_there_is_refused() -> None:
    for target in (-1, 5):
        with pytest.raises(InvalidInput, match="the model has 5 classes, 0 to 4"):
            IntegratedGradients(net()).attribute(torch.ones(1, 3, 8, 8), target=target)


def test_a_model_without_gradients_is_refused() -> None:
    def frozen(values: torch.Tensor) -> torch.Tensor:
        return values.detach()

    with pytest.raises(HandlerFailed, match="a model that PyTorch differentiates"):
        IntegratedGradients(frozen).attribute(torch.ones(1, 2), target=0)


@pytest.mark.parametrize("kind", ["eager", "sparse", "TorchScript"])
def test_each_word_has_its_share(kind: str) -> None:
    words: torch.nn.Module = Words(sparse=kind == "sparse")
    model = torchscript.script(words) if kind == "TorchScript" else words
    before = words.state_dict()["embedding.weight"].clone()
    tokens = torch.tensor([0, 2, 1, 2])
    found = word_importances(model, tokens, torch.tensor([0]), target=1)
    torch.testing.assert_close(found, torch.tensor([0.0, 3.0, 2.0, 3.0]))
    assert torch.equal(model.state_dict()["embedding.weight"], before)


def test_a_model_is_as_it_was_after_a_failure() -> None:
    model = Words()
    with pytest.raises(InvalidInput):
        word_importances(model, torch.tensor([0]), torch.tensor([0]), target=9)
    assert model.embedding.weight.shape == (3, 2)


def test_a_model_without_token_vectors_is_refused() -> None:
    with pytest.raises(HandlerFailed, match="the weight of its layer `embedding`"):
        word_importances(net(), torch.tensor([0]), target=0)


class Padded(torch.nn.Module):
    """Adds up the vectors of tokens, and remembers how many were padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(3, 2)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 2]]))
        self.seen = set[int]()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen.add(int((tokens == 0).sum()))
        total: torch.Tensor = self.embedding(tokens).sum(dim=1)
        return total


def test_padding_has_no_share_and_stays_what_it_is() -> None:
    model = Padded()
    found = word_importances(model, torch.tensor([[2, 1, 0, 0]]), target=1, padding_index=0)
    torch.testing.assert_close(found, torch.tensor([2.0, 0.0, 0.0, 0.0]))
    assert model.seen == {2}
