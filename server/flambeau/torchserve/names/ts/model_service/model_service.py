"""TorchServe's name for `flambeau.torchserve.model_service`."""

from flambeau.torchserve.model_service import ModelService, SingleNodeService

__all__ = ["ModelService", "SingleNodeService"]
