"""`training.train`, among several ranks, that fails where their gradients differ before a step."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from training.train import main


def compare(optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
    """Equal on all ranks, to the last bit."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            others = [torch.empty_like(parameter.grad) for _ in range(dist.get_world_size())]
            dist.all_gather(others, parameter.grad)
            assert all(torch.equal(parameter.grad, other) for other in others)
            print("equal gradients", file=sys.stderr)


if __name__ == "__main__":
    register_optimizer_step_pre_hook(compare)
    sys.exit(main(sys.argv[1:]))
