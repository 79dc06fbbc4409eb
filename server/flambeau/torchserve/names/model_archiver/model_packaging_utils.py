"""The archiver's name for `flambeau.torchserve.export_utils`."""

from flambeau.torchserve.archive_files import ModelArchiverError
from flambeau.torchserve.archiver import ModelArchiverConfig
from flambeau.torchserve.export_manifest import Manifest, Model
from flambeau.torchserve.export_utils import ModelExportUtils

__all__ = [
    "MANIFEST_FILE_NAME",
    "MAR_INF",
    "Manifest",
    "Model",
    "ModelArchiverConfig",
    "ModelArchiverError",
    "ModelExportUtils",
    "archiving_options",
]

archiving_options = {"tgz": ".tar.gz", "no-archive": "", "zip-store": ".mar", "default": ".mar"}
MANIFEST_FILE_NAME = "MANIFEST.json"
MAR_INF = "MAR-INF"
