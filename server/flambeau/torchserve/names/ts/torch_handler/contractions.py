"""TorchServe's name for the short forms of `flambeau.text`."""

from flambeau.text import CONTRACTIONS as CONTRACTION_MAP

__all__ = ["CONTRACTION_MAP"]
