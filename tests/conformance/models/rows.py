"""A subclass of BaseHandler: rows of numbers in, mapped classes out, described and explained."""

from __future__ import annotations

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import map_class_to_label


class Rows(BaseHandler):  # type: ignore[misc]  # `ts` is found by workers only
    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        rows = [row.get("data") or row.get("body") for row in data]
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def postprocess(self, data: torch.Tensor) -> list[object]:
        probabilities = torch.softmax(data, dim=1).tolist()
        classes = [[0, 1, 2]] * len(probabilities)
        return list(map_class_to_label(probabilities, self.mapping, classes))

    def get_insights(self, tensor: torch.Tensor, inputs: object, target: object) -> list[object]:
        return [{"inputs": inputs, "target": target, "shape": list(tensor.shape)}]

    def describe_handle(self) -> object:
        return {"input": "two numbers", "mapping": self.mapping is not None}
