"""The version of torch-model-archiver whose behaviour this is."""

__version__ = "0.12.0"
