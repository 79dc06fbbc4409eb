"""Doubles numbers on the device it is given; the worker checks it against the archive's samples."""

from __future__ import annotations

from typing import Any

import torch

from flambeau.codec import Row
from flambeau.context import Context
from flambeau.handler import device_of


class Doubling:
    def __init__(self) -> None:
        self.factor = torch.tensor(2.0)

    def initialize(self, context: Context) -> None:
        self.factor = self.factor.to(device_of(context))

    def inference(self, numbers_B: torch.Tensor) -> torch.Tensor:
        return numbers_B * self.factor

    def handle(self, data: list[Row], context: Context) -> list[dict[str, Any]]:
        numbers_B = torch.tensor([float(row["body"]) for row in data], device=self.factor.device)
        doubled_B = self.inference(numbers_B)
        return [
            {"doubled": number, "device": str(doubled_B.device), "batch_size": len(data)}
            for number in doubled_B.tolist()
        ]
