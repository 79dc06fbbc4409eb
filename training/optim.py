"""How the weights move: the optimizer, and the learning rate step by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

if TYPE_CHECKING:
    from torch import nn

    from training.config import OptimizerConfig, ScheduleConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The configured optimizer; biases and norms, which have one dimension, do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum)
    return AdamW(groups, lr=config.lr)


def make_scheduler(
    optimizer: Optimizer, config: ScheduleConfig, *, steps_per_epoch: int, num_steps: int
) -> LambdaLR:
    """The configured schedule; step it once per optimizer step."""
    num_warmup = round(config.warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        return lr_factor(config, step=step, num_warmup=num_warmup, num_steps=num_steps)

    return LambdaLR(optimizer, factor)


def averaged_over_steps(model: nn.Module, *, decay: float) -> AveragedModel | None:
    """A copy of the model whose weights follow, by `update_parameters`, a moving average.

    Args:
        model: Where it trains; the copy is there, too.
        decay: The part of the average that each step keeps; None is returned for 0.
    """
    if decay == 0:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's
    return AveragedModel(model, multi_avg_fn=average)


def lr_factor(config: ScheduleConfig, *, step: int, num_warmup: int, num_steps: int) -> float:
    """What the learning rate is multiplied by, after `step` steps: above 0 and at most 1, then 0.

    Args:
        config: Names the schedule.
        step: From 0.
        num_warmup: Steps of rising in a straight line.
        num_steps: Steps of the whole run, warm-up included.
    """
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    if config.name == "none":
        return 1.0
    done = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    return 1 - done if config.name == "linear" else 0.5 * (1 + math.cos(math.pi * done))
