"""TorchServe's name for the envelope `body`."""

from flambeau.torchserve.envelopes.body import BodyEnvelope

__all__ = ["BodyEnvelope"]
