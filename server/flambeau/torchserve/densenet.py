"""TorchServe's `densenet_handler`: tensors in, tensors out, as `torch.save` writes them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch

from flambeau.errors import InvalidInput
from flambeau.handler import BaseHandler


class DenseNetHandler(BaseHandler):
    """One request is one sample: a tensor without a batch dimension."""

    def preprocess(self, data: Sequence[Any]) -> Any:  # noqa: ANN401  # a subclass may differ
        """The samples of a batch, stacked.

        Raises:
            InvalidInput: One of them is no tensor.
        """
        return torch.stack([_sample(row.get("data") or row.get("body")) for row in data])

    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # what inference gives
        """One tensor per request, with a batch dimension of 1."""
        return [output.clone() for output in data.detach().cpu().split(1)]


def _sample(value: object) -> torch.Tensor:
    if isinstance(value, (bytes, bytearray)):
        try:
            sample: object = torch.load(io.BytesIO(value), map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # unpickling raises many kinds
            raise InvalidInput(f"the body is not written by torch.save: {error}") from error
        if isinstance(sample, torch.Tensor):
            return sample
    raise InvalidInput("the body is no tensor; send what torch.save writes for one")
