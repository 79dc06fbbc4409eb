"""TorchServe's name for a handler on DeepSpeed."""

from flambeau.torchserve.deepspeed import BaseDeepSpeedHandler

__all__ = ["BaseDeepSpeedHandler"]
