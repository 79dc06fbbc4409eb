"""TorchServe's name for `flambeau.torchserve.vision`."""

from flambeau.torchserve.vision import VisionHandler

__all__ = ["VisionHandler"]
