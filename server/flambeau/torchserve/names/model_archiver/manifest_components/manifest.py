"""The archiver's name for `flambeau.torchserve.export_manifest`."""

from flambeau.torchserve.archiver import RuntimeType
from flambeau.torchserve.export_manifest import Manifest

__all__ = ["Manifest", "RuntimeType"]
