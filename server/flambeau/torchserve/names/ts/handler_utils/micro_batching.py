"""TorchServe's name for `flambeau.torchserve.micro_batching`."""

from flambeau.torchserve.micro_batching import HANDLER_METHODS, MicroBatching

__all__ = ["HANDLER_METHODS", "MicroBatching"]
