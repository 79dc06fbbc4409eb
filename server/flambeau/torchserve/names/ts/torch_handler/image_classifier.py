"""TorchServe's name for `flambeau.torchserve.vision`."""

from flambeau.torchserve.vision import ImageClassifier

__all__ = ["ImageClassifier"]
