"""Whether a run may go on from a checkpoint: which settings may have changed since it was made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flambeau.errors import ConfigError
from training.config import TrainConfig
from training.errors import DataError
from training.settings import flatten

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_fabric import Fabric

    from training.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

# Settings that may differ between a run and its continuation: they do not change what a step does,
# but for `epochs`, which stretches the schedule and has to be changed to train on.
_FREE = frozenset(
    {
        "output",
        "resume",
        "epochs",
        "device",
        "keep",
        "async_save",
        "log_every_steps",
        "log_gradients",
        "patience",
        "profile_steps",
        "data.download",
        "data.root",
        "data.num_workers",
    }
)


def check_same(
    config: TrainConfig, checkpoint: Checkpoint, *, path: Path, data_digest: str, fabric: Fabric
) -> None:
    """Refuse what would not be the same run; say so if there are more or fewer processes.

    Args:
        config: Of the run.
        checkpoint: What it is to go on from.
        path: Where that is.
        data_digest: Of the run's data.
        fabric: Of the run.

    Raises:
        ConfigError: A setting has changed that may not.
        DataError: The data has.
    """
    old_config = TrainConfig.from_mapping(checkpoint["config"])
    now, then = flatten(config.to_mapping()), flatten(old_config.to_mapping())
    free = _FREE
    if "deepspeed" not in {config.strategy, old_config.strategy}:
        free = free | {"strategy", "zero_stage"}
    num_now, num_then = fabric.world_size, len(checkpoint["rng_states"])
    if num_now != num_then:
        samples_now = num_now * config.batch_size * config.accumulate
        samples_then = num_then * old_config.batch_size * old_config.accumulate
        if samples_now == samples_then:
            free = free | {"batch_size", "accumulate"}
        if fabric.is_global_zero:
            logger.warning(
                "%s is of %d processes, and %d go on, with %d samples in a step instead of %d",
                *(path, num_then, num_now, samples_now, samples_then),
            )
    for key in sorted(now.keys() - free):
        if now[key] != then[key]:
            raise ConfigError(
                f"{key} is {now[key]}, but {path} was trained with {then[key]}; set it back, or "
                "choose another output to start over"
            )
    if checkpoint["data_digest"] != data_digest:
        raise DataError(
            f"the data is not what {path} was trained on (sha256 {data_digest[:12]}, then "
            f"{checkpoint['data_digest'][:12]}); choose another output to start over"
        )
