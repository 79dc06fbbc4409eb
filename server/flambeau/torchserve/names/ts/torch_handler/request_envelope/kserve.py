"""TorchServe's name for the envelope `kserve`."""

from flambeau.torchserve.envelopes.kserve import KServeEnvelope

__all__ = ["KServeEnvelope"]
