"""TorchServe's name for a handler on PiPPy, which has no counterpart here."""

from flambeau.torchserve.unavailable import BasePippyHandler

__all__ = ["BasePippyHandler"]
