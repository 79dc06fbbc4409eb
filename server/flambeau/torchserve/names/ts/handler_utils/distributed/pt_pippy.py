"""TorchServe's name for PiPPy's pipelines, which have no counterpart here."""

from flambeau.torchserve.unavailable import get_pipeline_driver, initialize_rpc_workers

__all__ = ["get_pipeline_driver", "initialize_rpc_workers"]
