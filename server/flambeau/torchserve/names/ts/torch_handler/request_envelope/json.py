"""TorchServe's name for the envelope `json`."""

from flambeau.torchserve.envelopes.instances import JSONEnvelope

__all__ = ["JSONEnvelope"]
