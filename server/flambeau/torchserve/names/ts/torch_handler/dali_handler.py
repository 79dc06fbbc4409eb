"""TorchServe's name for `flambeau.torchserve.dali`."""

from flambeau.torchserve.dali import DaliHandler

__all__ = ["DaliHandler"]
