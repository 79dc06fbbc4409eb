"""TorchServe's image classifier without torchvision: the same steps with Pillow.

Resize(256), CenterCrop(224), ToTensor and Normalize, then softmax and the five best labels.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
TOP_K = 5


class ImageClassifier(BaseHandler):
    """One image file per request."""

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        images = [self.image(row.get("data") or row.get("body")) for row in data]
        return torch.stack(images).to(self.device)

    def image(self, body: bytes) -> torch.Tensor:
        image = Image.open(io.BytesIO(body)).convert("RGB")
        scale = 256 / min(image.size)
        width, height = (int(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        image = image.crop((left, top, left + 224, top + 224))
        pixels = (np.asarray(image, dtype=np.float32) / 255 - MEAN) / STD
        return torch.from_numpy(pixels.transpose(2, 0, 1))

    def inference(self, data: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(data)

    def postprocess(self, data: torch.Tensor) -> list[dict[str, float]]:
        shares, classes = torch.topk(data.softmax(1), TOP_K, dim=1)
        return [
            {self.mapping[str(place)]: share for share, place in zip(*row, strict=True)}
            for row in zip(shares.tolist(), classes.tolist(), strict=True)
        ]
