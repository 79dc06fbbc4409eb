"""TorchServe's import names, made of Flambeau."""

__version__ = "0.12.0"

__all__ = ["__version__"]
