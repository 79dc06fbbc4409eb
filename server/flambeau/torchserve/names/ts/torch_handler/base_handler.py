"""TorchServe's name for `flambeau.handler`."""

from flambeau.handler import BaseHandler

__all__ = ["BaseHandler"]
