"""The name that handlers stream by which were made for older releases of TorchServe."""

from flambeau.torchserve.util import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
