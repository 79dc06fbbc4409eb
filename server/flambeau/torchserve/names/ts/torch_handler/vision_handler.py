"""TorchServe's name for `flambeau.torchserve.vision`, and for what its module imports."""

from flambeau.handler import BaseHandler
from flambeau.torchserve.vision import VisionHandler

__all__ = ["BaseHandler", "VisionHandler"]
