"""torch-model-archiver's names, on top of `flambeau.torchserve`."""

from flambeau.torchserve.archiver import ModelArchiverConfig
from flambeau.torchserve.export_utils import ModelArchiver

__all__ = ["ModelArchiver", "ModelArchiverConfig", "__version__"]

__version__ = "0.12.0"
