"""A handler for `text_model.py` as one writes it for TorchServe: its base class and plain Python.

It pads the texts of a batch to the longest of them, as TorchServe's examples of transformers do at
best.
"""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler

MAX_TOKENS = 128
_WORD = re.compile(r"[a-z0-9]+")


class TextTransformerHandler(BaseHandler):  # type: ignore[misc]  # TorchServe is not typed
    """Text in UTF-8 to the probabilities of all classes."""

    def initialize(self, context: Any) -> None:  # noqa: ANN401
        super().initialize(context)
        model_dir = Path(context.system_properties["model_dir"])
        tokens = (model_dir / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.numbers = {token: number for number, token in enumerate(tokens)}

    def preprocess(self, data: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self._numbers_of(row) for row in data]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = True
        return tokens.to(self.device), mask.to(self.device)

    def _numbers_of(self, row: dict[str, Any]) -> list[int]:
        text = row.get("data") or row.get("body")
        if isinstance(text, (bytes, bytearray)):
            text = text.decode()
        unknown = self.numbers["<unk>"]
        words = _WORD.findall(str(text).lower())[:MAX_TOKENS]
        return [self.numbers.get(word, unknown) for word in words]

    def inference(self, data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(*data)
        return logits

    def postprocess(self, data: torch.Tensor) -> list[dict[str, float]]:
        return [
            {self.mapping[str(index)]: share for index, share in enumerate(shares)}
            for shares in data.softmax(1).tolist()
        ]
