"""The archiver's name for the flags of `flambeau.torchserve.archiver`."""

from flambeau.torchserve.export_utils import ArgParser

__all__ = ["ArgParser"]
