"""Samples per second of `training.train` beside a bare PyTorch loop that does the same steps.

    python -m benchmarks.training_loop training/configs/digits_resnet18.toml
    python -m benchmarks.training_loop CONFIG device=cuda precision=bf16-mixed compile=true

The two take turns. Of each run, the last epoch counts: compilers and caches are warm by then.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from training.augment import shift_and_rotate
from training.config import TrainConfig, read_config
from training.data import load_data
from training.determinism import deterministic, seed_all
from training.models import fit_statistics, model_spec, rebuild
from training.optim import make_optimizer, make_scheduler
from training.train import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_loop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("config", type=Path, help="a TOML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting")
    args = parser.parse_intermixed_args(arguments)
    config = read_config(args.config, overrides=["epochs=2", *args.overrides])
    pairs = [(ours(config), bare(config)) for _ in range(args.rounds)]
    ratio = statistics.median(one / other for one, other in pairs)
    for name, found in zip(("training.train", "bare loop"), zip(*pairs, strict=True), strict=True):
        print(f"{name:16}{statistics.median(found):10.1f} samples/s")
    print(f"{'ratio':16}{ratio:10.3f} (median of {len(pairs)} pairs)")
    return 0


def ours(config: TrainConfig) -> float:
    """Samples per second of the last epoch."""
    with tempfile.TemporaryDirectory(prefix="flambeau-bench-") as name:
        output = Path(name) / "run"
        with contextlib.redirect_stdout(io.StringIO()):
            train(replace(config, output=output))
        with (output / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return float(list(csv.DictReader(file))[-1]["samples_per_s"])


def bare(config: TrainConfig) -> float:
    """The same for the loop that everybody writes: no checks, no logs, no accuracy."""
    device = torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    is_narrow = config.precision == "bf16-mixed"
    with deterministic(num_threads=config.num_threads):
        data = load_data(config.data, image=config.image)
        loader = DataLoader(
            data.train,
            batch_size=config.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=config.data.num_workers,
        )
        seed_all(config.seed)
        model = rebuild(model_spec(config.model, data))
        fit_statistics(model, data)
        if config.compile:
            model.compile()
        model.to(device).train()
        optimizer = make_optimizer(model, config.optimizer)
        scheduler = make_scheduler(
            optimizer,
            config.schedule,
            steps_per_epoch=len(loader),
            num_steps=len(loader) * config.epochs,
        )
        duration_s = 0.0
        for _ in range(config.epochs):
            started_at = time.perf_counter()
            for batch in loader:
                x, labels_B = (each.to(device) for each in batch)
                x = shift_and_rotate(
                    x,
                    max_shift=config.data.max_shift,
                    max_rotation_deg=config.data.max_rotation_deg,
                )
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_narrow):
                    loss = F.cross_entropy(model(x), labels_B)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            duration_s = time.perf_counter() - started_at
    return len(loader) * config.batch_size / duration_s


if __name__ == "__main__":
    sys.exit(main())
