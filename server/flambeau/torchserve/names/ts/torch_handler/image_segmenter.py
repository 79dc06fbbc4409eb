"""TorchServe's name for `flambeau.torchserve.vision`."""

from flambeau.torchserve.vision import ImageSegmenter

ImangeSegmenter = ImageSegmenter  # TorchServe's first spelling

__all__ = ["ImageSegmenter", "ImangeSegmenter"]
