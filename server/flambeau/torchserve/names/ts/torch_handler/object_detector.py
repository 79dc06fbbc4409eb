"""TorchServe's name for `flambeau.torchserve.vision`."""

from flambeau.torchserve.vision import ObjectDetector

__all__ = ["ObjectDetector"]
