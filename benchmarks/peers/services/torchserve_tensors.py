"""A handler as one writes it for TorchServe: raw float32 or a JSON list in, numbers out."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler

SHAPE = [int(size) for size in os.environ["BENCH_SHAPE"].split(",")]


class TensorHandler(BaseHandler):
    """One sample per request."""

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        bodies = [row.get("body") or row.get("data") for row in data]
        if isinstance(bodies[0], list):
            samples = np.array(bodies, dtype=np.float32)
        else:
            samples = np.stack([np.frombuffer(body, dtype=np.float32) for body in bodies])
        return torch.from_numpy(samples.reshape(-1, *SHAPE)).to(self.device)

    def inference(self, data: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(data)

    def postprocess(self, data: torch.Tensor) -> list[list[float]]:
        return data.tolist()
