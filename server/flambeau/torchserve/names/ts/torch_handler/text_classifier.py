"""TorchServe's name for `flambeau.torchserve.text_handlers`, and for what its module imports."""

from flambeau.torchserve.text_handlers import TextClassifier, TextHandler
from flambeau.torchserve.util import map_class_to_label

__all__ = ["TextClassifier", "TextHandler", "map_class_to_label"]
