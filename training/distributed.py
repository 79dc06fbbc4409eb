"""Devices and ranks: what Lightning Fabric does for us, and what it leaves to us."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from flambeau.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator

    from training.config import TrainConfig
    from training.determinism import RngStates


@contextmanager
def launched(config: TrainConfig) -> Generator[Fabric, None, None]:
    """A Fabric that has joined its peers, if `torchrun` or `fabric run` started several.

    Raises:
        ConfigError: `device=cuda` or `precision=16-mixed` without a GPU.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', and torch sees no GPU; use device=auto or device=cpu")
    accelerator = config.device
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise ConfigError(
            "precision is '16-mixed', which scales losses on a GPU; on a CPU, use bf16-mixed"
        )
    # `fabric run` says everything in variables that Fabric reads, and refuses to hear it twice;
    # its processes join their peers when Fabric is made.
    by_fabric_run = "LT_CLI_USED" in os.environ
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_nodes = int(os.environ.get("WORLD_SIZE", "1")) // num_local
    joined_before = dist.is_initialized()
    fabric = Fabric(
        accelerator="auto" if by_fabric_run else accelerator,
        devices="auto" if by_fabric_run else num_local,
        num_nodes=1 if by_fabric_run else num_nodes,
        precision=None if config.precision == "32-true" else config.precision,
    )
    if not by_fabric_run:
        fabric.launch()
    try:
        yield fabric
    finally:
        if dist.is_initialized() and not joined_before:
            dist.destroy_process_group()


def gather_rng_states(states: RngStates, *, fabric: Fabric) -> list[RngStates]:
    """Everyone's states, by rank."""
    gathered: list[Any] = [states] * fabric.world_size
    if fabric.world_size > 1:
        dist.all_gather_object(gathered, states)
    return gathered


def broadcast_buffers(model: torch.nn.Module, *, fabric: Fabric) -> None:
    """Give every rank rank 0's buffers: batch norm's statistics differ until the next step."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
