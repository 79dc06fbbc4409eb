"""TorchServe's name for the envelope `kservev2`."""

from flambeau.torchserve.envelopes.kserve_v2 import KServev2Envelope

__all__ = ["KServev2Envelope"]
