"""The archiver's name for `flambeau.torchserve.export_manifest`."""

from flambeau.torchserve.export_manifest import Model

__all__ = ["Model"]
