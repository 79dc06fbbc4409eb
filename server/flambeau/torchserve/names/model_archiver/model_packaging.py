"""The archiver's name for its command."""

from flambeau.torchserve.archive_files import ModelArchiverError
from flambeau.torchserve.archiver import ModelArchiverConfig
from flambeau.torchserve.export_utils import (
    ArgParser,
    ModelExportUtils,
    generate_model_archive,
    package_model,
)

__all__ = [
    "ArgParser",
    "ModelArchiverConfig",
    "ModelArchiverError",
    "ModelExportUtils",
    "generate_model_archive",
    "package_model",
]

if __name__ == "__main__":
    generate_model_archive()
