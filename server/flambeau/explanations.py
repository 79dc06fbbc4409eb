"""Why a model answered as it did: integrated gradients of its inputs, and of its words.

An attribution says how much each number of an input moved the score of one class, compared with a
baseline that says nothing. All attributions of one input add up to the score's difference from the
baseline's. The method is that of Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep
Networks" (2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flambeau.errors import HandlerFailed, InvalidInput
from flambeau.parity import named_outputs

if TYPE_CHECKING:
    from collections.abc import Iterator

NUM_STEPS = 15  # TorchServe's vision handlers take as many


class IntegratedGradients:
    """Attributions of a model's first input.

    The calls are those of captum's class of this name that TorchServe's handlers make.

    Attributes:
        forward_func: The model.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func

    def attribute(
        self,
        inputs: torch.Tensor,
        *,
        baselines: torch.Tensor | float | None = None,
        target: int | None = None,
        additional_forward_args: Any = None,  # noqa: ANN401  # one argument, or a tuple of them
        n_steps: int = 50,
    ) -> torch.Tensor:
        """How much each number of `inputs` adds to the score of class `target`.

        Args:
            inputs: (B, ...), floating point.
            baselines: What the path starts from, of a shape that broadcasts to the inputs'; None
                for zeros.
            target: The class, of an output (B, C); None for an output (B,).
            additional_forward_args: The model's further arguments.
            n_steps: Points of the path, 1 or more; more are slower and more exact.

        Returns:
            The shape of `inputs`.

        Raises:
            InvalidInput: It is no class of the model.
            HandlerFailed: The model's output does not depend on its input in a way that has a
                gradient.
        """
        further = () if additional_forward_args is None else additional_forward_args
        arguments = further if isinstance(further, tuple) else (further,)
        end = inputs.detach().clone()  # in case it was made in inference mode
        way = end - (0.0 if baselines is None else baselines)
        total = torch.zeros_like(end)
        for place, weight in _points(n_steps):
            at = (end - (1 - place) * way).requires_grad_()
            total += weight * _gradient(self.forward_func(at, *arguments), at, target)
        return way * total


def input_importances(
    gradients: IntegratedGradients, inputs: torch.Tensor, *, target: int
) -> list[Any]:
    """How much each number of `inputs`, (B, ...), adds to the score of one class, nested alike.

    Raises:
        InvalidInput: `target` is no class of the model.
        HandlerFailed: The model has no gradient.
    """
    importances: list[Any] = gradients.attribute(inputs, target=target, n_steps=NUM_STEPS).tolist()
    return importances


def word_importances(
    model: torch.nn.Module,
    tokens: torch.Tensor,
    *further: torch.Tensor,
    target: int,
    padding_index: int | None = None,
) -> torch.Tensor:
    """How much each token of one text adds to the score of class `target`.

    The path leads from words without meaning, whose embeddings are zero, to the text's own.

    Args:
        model: Takes tokens; its layer `embedding` has one row of `weight` per token.
        tokens: int64, (N,) or (1, N), what the model takes first.
        *further: The model's further inputs.
        target: The class, of an output (1, C).
        padding_index: The number behind the end of a text, which stays what it is; None takes the
            layer's, if it knows one.

    Returns:
        float32, (N,); 0 of padding.

    Raises:
        HandlerFailed: The model has no such layer.
        InvalidInput: It is no class of the model.
    """
    layer: Any = getattr(model, "embedding", None)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise HandlerFailed(
            "explanations need a model whose token vectors are the weight of its layer `embedding`"
        )
    # Each token gets a row of its own, so that equal words at two places are told apart.
    vectors = weight.detach()[tokens.flatten()]
    # The row that the layer knows as padding has no gradient; with one more, none has to be it.
    rows = torch.arange(len(vectors), device=tokens.device)
    padding = getattr(layer, "padding_idx", None) if padding_index is None else padding_index
    if padding is not None:
        rows[rows >= padding] += 1
    table = vectors.new_zeros(len(vectors) + 1, vectors.shape[1])
    table[rows] = vectors
    if padding_index is not None:
        rows = torch.where(tokens.flatten() == padding_index, padding_index, rows)
    total = torch.zeros_like(table)
    try:
        for place, share in _points(NUM_STEPS):
            layer.weight = torch.nn.Parameter(place * table)
            scores = model(rows.view_as(tokens), *further)
            total += share * _gradient(scores, layer.weight, target).to_dense()
    finally:
        layer.weight = weight
    return (table * total)[rows].sum(1)


def _points(num_steps: int) -> Iterator[tuple[float, float]]:
    """Places from 0 to 1 with their weights in an integral: Gauss and Legendre's."""
    places, weights = np.polynomial.legendre.leggauss(num_steps)
    yield from zip((0.5 * (1 + places)).tolist(), (0.5 * weights).tolist(), strict=True)


def _gradient(output: object, at: torch.Tensor, target: object) -> torch.Tensor:
    scores = next(iter(named_outputs(output).values()))
    if target is not None and scores.ndim > 1:
        num_classes = scores.shape[1]
        if not isinstance(target, int):
            raise InvalidInput(f"target is {target!r}; send the index of a class")
        if not 0 <= target < num_classes:
            raise InvalidInput(
                f"target is {target}; the model has {num_classes} classes, 0 to {num_classes - 1}"
            )
        scores = scores[:, target]
    if not scores.requires_grad:
        raise HandlerFailed(
            "explanations need a model that PyTorch differentiates: TorchScript, eager, or a "
            "torch.export program"
        )
    (gradient,) = torch.autograd.grad(scores.sum(), at)
    return gradient
