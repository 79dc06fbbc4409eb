"""TorchServe's name for `flambeau.torchserve.densenet`."""

from flambeau.torchserve.densenet import DenseNetHandler

__all__ = ["DenseNetHandler"]
