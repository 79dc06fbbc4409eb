"""TorchServe's name for `flambeau.torchserve.text_handlers`."""

from flambeau.torchserve.text_handlers import TextHandler

__all__ = ["TextHandler"]
