"""TorchServe's name for helpers of handlers."""

from flambeau.torchserve.util import import_class, send_intermediate_predict_response

__all__ = ["import_class", "send_intermediate_predict_response"]
