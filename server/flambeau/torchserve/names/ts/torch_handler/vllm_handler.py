"""TorchServe's name for `flambeau.torchserve.vllm_handler`."""

from flambeau.torchserve.vllm_handler import VLLMHandler

__all__ = ["VLLMHandler"]
