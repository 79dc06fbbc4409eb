"""The archiver's name for what it raises."""

from flambeau.torchserve.archive_files import ModelArchiverError

__all__ = ["ModelArchiverError"]
