"""TorchServe's name for `flambeau.torchserve.trt_llm_handler`."""

from flambeau.torchserve.trt_llm_handler import TRTLLMHandler

__all__ = ["TRTLLMHandler"]
