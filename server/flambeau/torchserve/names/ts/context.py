"""TorchServe's name for `flambeau.context`."""

from flambeau.context import Context, RequestProcessor

__all__ = ["Context", "RequestProcessor"]
