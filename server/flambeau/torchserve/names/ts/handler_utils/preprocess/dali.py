"""TorchServe's name for a pipeline of NVIDIA DALI."""

from flambeau.torchserve.dali import get_dali_pipeline

__all__ = ["get_dali_pipeline"]
