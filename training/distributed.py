"""Devices and ranks: what Lightning Fabric does for us, and what it leaves to us."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from flambeau.errors import ConfigError
from training.strategies import make_strategy

if TYPE_CHECKING:
    from collections.abc import Generator

    from training.config import TrainConfig
    from training.determinism import RngStates


@contextmanager
def launched(config: TrainConfig) -> Generator[Fabric, None, None]:
    """A Fabric that has joined its peers, if `torchrun` or `fabric run` started several.

    Raises:
        ConfigError: `device=cuda` or `precision=16-mixed` without a GPU, or a strategy that does
            not fit.
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
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    strategy = make_strategy(config, accelerator=accelerator, num_processes=num_processes)
    meet_anew()
    joined_before = dist.is_initialized()
    fabric = Fabric(
        accelerator="auto" if by_fabric_run else accelerator,
        devices="auto" if by_fabric_run else num_local,
        num_nodes=1 if by_fabric_run else num_processes // num_local,
        strategy=strategy,
        precision=None if config.precision == "32-true" else config.precision,
    )
    if not by_fabric_run:
        fabric.launch()
    try:
        yield fabric
    finally:
        if dist.is_initialized() and not joined_before:
            dist.destroy_process_group()


def meet_anew() -> None:
    """Let ranks that `torchrun` started again meet elsewhere than those before them.

    Its agent keeps one store for all attempts, in which ranks find the addresses of those that are
    gone (https://github.com/pytorch/pytorch/issues/135712). On several machines, attempts have no
    number that all know; there, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before `torchrun` helps.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    is_shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if attempt == "0" or not is_shared or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agents = dist.TCPStore(host, port, is_master=False)  # type: ignore[attr-defined]  # it has it
    key = f"flambeau/port/{attempt}"
    if os.environ["RANK"] == "0":
        with socket.socket() as free:
            free.bind(("", 0))
            agents.set(key, str(free.getsockname()[1]))
    os.environ["MASTER_PORT"] = agents.get(key).decode()
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # rank 0 opens one of its own there


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
