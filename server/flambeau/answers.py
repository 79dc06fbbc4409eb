"""From what models give to what TorchServe's handlers answer; shared by both sets of handlers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flambeau.labels import label_of
from flambeau.parity import named_outputs
from flambeau.step_timing import timed


class TopClasses:
    """A classifier's answers, the most probable classes; put it before the class with the model.

    Attributes:
        topk: The most classes in an answer.
        mapping: Labels by class index as text.
    """

    topk: int = 5
    mapping: dict[str, str] | None

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # models vary
        """Logits, (B, C), to the labels of the `topk` most probable classes, best first."""
        return top_classes(data, topk=self.topk, mapping=self.mapping)


def top_classes(
    output: object, *, topk: int, mapping: Mapping[str, str] | None
) -> list[dict[str, float]]:
    """The most probable classes of each sample.

    Args:
        output: Logits, (B, C), alone or first in a tuple, list or dict.
        topk: The most classes of an answer.
        mapping: Labels by class index as text.

    Returns:
        One per sample: probabilities by label, the largest first.
    """
    logits_BC = next(iter(named_outputs(output).values()))
    probabilities = torch.softmax(logits_BC.float(), dim=1)
    values, classes = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
    return [
        dict(zip((label_of(index, mapping) for index in indices), shares, strict=True))
        for indices, shares in zip(classes.tolist(), values.tolist(), strict=True)
    ]


def class_shares(output: object, *, mapping: Mapping[str, str] | None) -> list[dict[str, float]]:
    """The probabilities of all classes of each sample, in the model's order.

    Args:
        output: Logits, (B, C), alone or first in a tuple, list or dict.
        mapping: Labels by class index as text.
    """
    logits_BC = next(iter(named_outputs(output).values()))
    return [
        {label_of(index, mapping): share for index, share in enumerate(shares)}
        for shares in torch.softmax(logits_BC.float(), dim=1).tolist()
    ]


def pixel_classes(output: object) -> list[Any]:
    """The most probable class of each pixel.

    Args:
        output: Logits, (B, C, H, W): a tensor, or under the key `out`, as torchvision's models
            give them.

    Returns:
        One nested list per sample, (H, W, 2): class index and probability.
    """
    outputs = named_outputs(output)
    logits_BCHW = outputs["out"] if "out" in outputs else next(iter(outputs.values()))
    values, classes = torch.softmax(logits_BCHW.float(), dim=1).max(dim=1)
    pairs: list[Any] = torch.stack([classes.to(values.dtype), values], dim=-1).tolist()
    return pairs


def detected_objects(
    output: Any,  # noqa: ANN401  # a model's; checked by what is done with it
    *,
    threshold: float,
    mapping: Mapping[str, str] | None,
) -> list[list[dict[str, Any]]]:
    """The objects found in each image, in the model's order.

    Args:
        output: One dict per image with `boxes`, (N, 4), `labels` and `scores`, (N,); or what
            torchvision's scripted detectors give: losses, then that.
        threshold: The least score of an object that is told.
        mapping: Labels by class index as text.

    Returns:
        One list per image of `{label: [x1, y1, x2, y2], "score": score}`, in pixels.
    """
    images: Sequence[Mapping[str, torch.Tensor]] = (
        output[1] if isinstance(output, tuple) and len(output) == 2 else output
    )
    return [
        [
            {label_of(index, mapping): box, "score": score}
            for box, index, score in zip(
                image["boxes"].tolist(),
                image["labels"].tolist(),
                image["scores"].tolist(),
                strict=True,
            )
            if score >= threshold
        ]
        for image in images
    ]
