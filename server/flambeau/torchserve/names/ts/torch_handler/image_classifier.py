"""TorchServe's name for `flambeau.torchserve.vision`, and for what its module imports."""

from flambeau.torchserve.util import map_class_to_label
from flambeau.torchserve.vision import ImageClassifier, VisionHandler

__all__ = ["ImageClassifier", "VisionHandler", "map_class_to_label"]
