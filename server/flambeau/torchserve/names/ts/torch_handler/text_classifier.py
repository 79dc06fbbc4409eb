"""TorchServe's name for `flambeau.torchserve.text_handlers`."""

from flambeau.torchserve.text_handlers import TextClassifier

__all__ = ["TextClassifier"]
