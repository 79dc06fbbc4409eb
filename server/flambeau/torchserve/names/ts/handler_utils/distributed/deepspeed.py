"""TorchServe's name for `flambeau.torchserve.deepspeed`."""

from flambeau.torchserve.deepspeed import create_checkpoints_json, get_ds_engine

__all__ = ["create_checkpoints_json", "get_ds_engine"]
