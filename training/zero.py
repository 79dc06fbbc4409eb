"""DeepSpeed's ZeRO, on GPUs: the shares of all ranks go to a directory beside each checkpoint.

    checkpoints/epoch-00003.pt        the whole weights, and all that `flambeau export` needs
    checkpoints/epoch-00003.zero/     DeepSpeed's shards, which only DeepSpeed goes on from

The directory is complete before the file is there, and goes when the file does.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from typing import TYPE_CHECKING

from lightning_fabric.strategies.deepspeed import DeepSpeedStrategy

from flambeau.errors import ConfigError
from training.errors import CheckpointError
from training.settings import flatten

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import nn

    from training.config import TrainConfig

# The only values of settings that DeepSpeed would take over from the loop, or does otherwise.
_ONLY = {
    "precision": "32-true",
    "accumulate": 1,
    "compile": False,
    "log_gradients": False,
    "optimizer.clip_norm": 0.0,
    "optimizer.ema_decay": 0.0,
}


def zero_strategy(config: TrainConfig, *, accelerator: str) -> DeepSpeedStrategy:
    """DeepSpeed for Fabric.

    Raises:
        ConfigError: DeepSpeed is not installed, there is no GPU, or a setting does not fit.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "strategy is 'deepspeed', which is not installed: pip install 'flambeau[deepspeed]'; "
            "or use strategy=fsdp"
        )
    if accelerator != "cuda":
        raise ConfigError(
            "strategy is 'deepspeed', which needs a GPU; use strategy=fsdp, which spreads the same "
            "over CPUs"
        )
    given = flatten(config.to_mapping())
    for key, only in _ONLY.items():
        if given[key] != only:
            raise ConfigError(
                f"{key} is {given[key]}, and strategy=deepspeed takes {only} only; use "
                "strategy=fsdp"
            )
    return DeepSpeedStrategy(stage=config.zero_stage)


def gathered(model: nn.Module) -> AbstractContextManager[None]:
    """Every rank holds the whole weights in the block, even those of stage 3."""
    deepspeed = importlib.import_module("deepspeed")  # an extra
    context: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        list(model.parameters())
    )
    return context


def save_shards(strategy: DeepSpeedStrategy, path: Path) -> None:
    """Write what belongs to a checkpoint; call it on all ranks before that is written.

    Args:
        strategy: With the model set up.
        path: Of the checkpoint.
    """
    engine = strategy.model
    state = {"model": engine, "optimizer": engine.optimizer}
    strategy.save_checkpoint(path.with_suffix(".zero"), state)


def load_shards(strategy: DeepSpeedStrategy, path: Path) -> None:
    """Go on from a checkpoint; call it on all ranks.

    Raises:
        CheckpointError: There are none beside it: another strategy has left it.
    """
    shards = path.with_suffix(".zero")
    if not shards.is_dir():
        raise CheckpointError(
            f"{path} has no {shards.name} beside it, which strategy=deepspeed goes on from; use "
            "another strategy, or another output to start over"
        )
    engine = strategy.model
    strategy.load_checkpoint(shards, {"model": engine, "optimizer": engine.optimizer})


def drop_shards(directory: Path, *, keep: Iterable[Path]) -> None:
    """Remove the shards of checkpoints that are gone.

    Args:
        directory: Of all.
        keep: The checkpoints that are there, or will be.
    """
    kept = {path.stem for path in keep}
    for shards in directory.glob("*.zero"):
        if shards.stem not in kept:
            shutil.rmtree(shards)
