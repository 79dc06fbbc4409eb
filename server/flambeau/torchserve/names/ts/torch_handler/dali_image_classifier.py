"""TorchServe's name for `flambeau.torchserve.dali`."""

from flambeau.torchserve.dali import DALIImageClassifier

__all__ = ["DALIImageClassifier"]
