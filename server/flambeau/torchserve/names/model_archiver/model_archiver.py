"""The archiver's name for itself as a class."""

from flambeau.torchserve.archiver import ModelArchiverConfig
from flambeau.torchserve.export_utils import ModelArchiver, generate_model_archive

__all__ = ["ModelArchiver", "ModelArchiverConfig", "generate_model_archive"]
