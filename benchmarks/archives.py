"""Archives made for measuring: their weights are random, as nobody looks at the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

import flambeau
from benchmarks.workloads.lenet import NUM_PIXELS, make_lenet
from flambeau.testing import make_archive
from training import models

if TYPE_CHECKING:
    from pathlib import Path

LENGTH = """
def handle(data, context):
    return [str(len(row["body"])) for row in data or []]  # none: loading
"""


def lenet(path: Path) -> Path:
    """LeNet for 784 pixels of float32; returns a request's body beside it."""
    return _exported(make_lenet(), (NUM_PIXELS,), path)


def resnet18(path: Path) -> Path:
    """ResNet-18 for one 3 x 224 x 224 image of float32; returns a request's body beside it."""
    return _exported(models.resnet18(num_classes=1000), (3, 224, 224), path)


def length(directory: Path, *, name: str = "length") -> Path:
    """A model that takes a body of any length, and answers with its length."""
    return make_archive(directory, name=name, handler=LENGTH)


def _exported(model: torch.nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = torch.zeros(2, *shape)
    flambeau.export(model.eval(), inputs, name=path.stem, version="1.0", path=path)
    body = path.with_suffix(".f32")
    body.write_bytes(np.random.default_rng(0).standard_normal(shape).astype("<f4").tobytes())
    return body
