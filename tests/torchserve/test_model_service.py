"""Handlers in the style that came before BaseHandler."""

from __future__ import annotations

from typing import Any

import pytest

from flambeau.context import Context
from flambeau.torchserve.model_service import ModelService, SingleNodeService


class Doubling(SingleNodeService):
    """Takes the rows' bodies and doubles them."""

    def _preprocess(self, data: list[dict[str, int]]) -> list[int]:
        return [row["body"] for row in data]

    def _inference(self, data: list[int]) -> list[int]:
        return [value * 2 for value in data]

    def _postprocess(self, data: list[int]) -> list[str]:
        return [str(value) for value in data]


@pytest.fixture
def context() -> Context:
    model: dict[str, Any] = {"modelName": "mine", "signature": {"inputs": []}}
    return Context("mine", "/model", {"model": model}, 1, 3, "0.1")


def test_inference_is_three_steps(context: Context) -> None:
    service = Doubling("", "", {})
    service.initialize(context)
    assert service.handle([{"body": 1}, {"body": 2}], context) == ["2", "4"]


def test_initialize_takes_what_the_context_says(context: Context) -> None:
    service = Doubling("", "", {})
    assert service.signature is None
    service.initialize(context)
    assert (service.model_name, service.model_dir, service.ctx) == ("mine", "/model", 3)
    assert service.signature == {"inputs": []}
    assert service.ping() is None


def test_a_service_says_what_inference_does() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ModelService("mine", "/", {})  # type: ignore[abstract]  # that is the point
