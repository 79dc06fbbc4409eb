"""TorchServe's name for `flambeau.torchserve.mock_context`."""

from flambeau.torchserve.mock_context import MockContext

__all__ = ["MockContext"]
