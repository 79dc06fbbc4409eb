"""TorchServe's name for what envelopes derive from."""

from flambeau.torchserve.envelopes.base import BaseEnvelope

__all__ = ["BaseEnvelope"]
