"""A program that trains on two ranks, once for each list of settings.

    two_ranks.py SETTINGS [SETTINGS ...]        each a JSON list of key=value

`torchrun`'s agent starts them, and starts them again when one dies. For `kill=RANK@STEP`, a rank
dies by SIGKILL after so many steps of the first start; for a second one, of the second start.

Under `strategy=ddp`, a rank fails whose gradients differ from another's before a step.

Ranks are forked, so that what takes long is imported once, and nothing is computed before.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.training.killed_training import import_before_forks
from training.train import main as train

NUM_RANKS = 2
KILL = "kill="


def ranks(settings: list[str]) -> None:
    """Train once."""
    kills = [each.removeprefix(KILL) for each in settings if each.startswith(KILL)]
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=NUM_RANKS,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=len(kills),
        start_method="fork",
    )
    elastic_launch(config, rank)([each for each in settings if not each.startswith(KILL)], kills)


def rank(settings: list[str], kills: list[str]) -> None:
    """One of them."""
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    steps = itertools.count(1)

    def die(_optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        if f"{os.environ['RANK']}@{next(steps)}" in kills[attempt : attempt + 1]:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(die)
    if "strategy=ddp" in settings:
        register_optimizer_step_pre_hook(compare)
    if status := train(settings):
        sys.exit(status)


def compare(optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
    """Equal gradients on all ranks, to the last bit."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            others = [torch.empty_like(parameter.grad) for _ in range(NUM_RANKS)]
            dist.all_gather(others, parameter.grad)
            assert all(torch.equal(parameter.grad, other) for other in others)
            print("equal gradients", file=sys.stderr)


if __name__ == "__main__":
    import_before_forks()
    for text in sys.argv[1:]:
        ranks(json.loads(text))
