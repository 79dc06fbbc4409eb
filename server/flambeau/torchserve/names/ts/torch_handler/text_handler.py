"""TorchServe's name for `flambeau.torchserve.text_handlers`, and for what its module imports."""

from flambeau.handler import BaseHandler
from flambeau.torchserve.text_handlers import TextHandler

__all__ = ["BaseHandler", "TextHandler"]
