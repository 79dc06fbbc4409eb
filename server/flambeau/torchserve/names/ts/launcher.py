"""TorchServe's name for `flambeau.torchserve.launcher`."""

from flambeau.torchserve.launcher import (
    register_model,
    register_model_with_params,
    start,
    stop,
)

__all__ = ["register_model", "register_model_with_params", "start", "stop"]
