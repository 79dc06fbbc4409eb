"""The archiver's name for `flambeau.torchserve.archiver.ModelArchiverConfig`."""

from flambeau.torchserve.archiver import ModelArchiverConfig, RuntimeType

__all__ = ["ModelArchiverConfig", "RuntimeType"]
