"""Records what DeepSpeed's ZeRO leaves, which `test_zero_shards.py` reads: real files, kept here.

    pip install deepspeed==0.19.8
    DS_ACCELERATOR=cpu torchrun --nproc-per-node=2 -m tests.server.exporting.record_zero STAGE

A net of a few weights takes three steps in bfloat16, and is saved in `zero/stage-STAGE`. Beside the
shards is `expected.safetensors`: the weights as DeepSpeed itself put them together, in bfloat16.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

DIRECTORY = Path(__file__).parent / "zero"
NUM_TOKENS = 11
WIDTH = 5
BATCH_SIZE = 4


class Net(nn.Module):
    """Weights of odd sizes, shared, frozen, in two groups of the optimizer, and a buffer."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(requires_grad=False)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
        self.head = nn.Linear(WIDTH, NUM_TOKENS, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Logits, float (batch, NUM_TOKENS), of int64 (batch,)."""
        x = self.norm(self.frozen(self.embedding(tokens_B)))
        logits: torch.Tensor = self.head(x * self.scale.to(x.dtype))
        return logits


def record(stage: int) -> None:
    """Train and save; on every rank."""
    deepspeed: Any = importlib.import_module("deepspeed")
    deepspeed.init_distributed(dist_backend="gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    net = Net()
    trained = [each for each in net.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": 0.1},
        {"params": [each for each in trained if each.ndim == 1], "weight_decay": 0.0},
    ]
    config = {
        "train_micro_batch_size_per_gpu": BATCH_SIZE,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
    for step in range(3):
        generator = torch.Generator().manual_seed(2 * step + rank)
        tokens_B = torch.randint(0, NUM_TOKENS, (BATCH_SIZE,), generator=generator)
        engine.backward(F.cross_entropy(engine(tokens_B).float(), tokens_B))
        engine.step()
    directory = DIRECTORY / f"stage-{stage}"
    engine.save_checkpoint(str(directory))
    with deepspeed.zero.GatheredParameters(list(net.parameters())):
        if rank == 0:
            expected = {name: each.detach().clone() for name, each in net.state_dict().items()}
            safetensors.torch.save_file(expected, directory / "expected.safetensors")
            for script in directory.glob("zero_to_*.py"):  # DeepSpeed's own, which we do not keep
                script.unlink()


if __name__ == "__main__":
    record(int(sys.argv[1]))
