"""A program that trains in processes of its own and kills them.

    killed_training.py DIRECTORY NUM_KILLS SEED

It trains once undisturbed, in DIRECTORY/whole. Then it does two things, `random` and `steps`, for
checkpoints that are written `at_once` and for those written `in_background`, and prints a line for
each kill: thing, way, the last epoch that was reported before, the epoch that resuming finds after.

`random` trains again, in DIRECTORY/WAY/killed, with `kill -9` at random moments. `steps` saves some
checkpoints in a directory for each step that a disk takes for that, killed before the step or after
it.

Processes are forked: what takes long is imported once, and nothing is computed before the fork.
"""

from __future__ import annotations

import importlib
import itertools
import os
import random
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flambeau.testing import Fault, FaultyDisk
from training.checkpoint import Checkpoint, Checkpoints
from training.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from training.saving import Saving
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCHS_PER_KILL = 5
NUM_SAVES = 2
WAYS = ("at_once", "in_background")
# what each training imports when it needs it
_IMPORTED = ("matplotlib.figure", "sklearn.datasets")
_LONGEST_PAUSE_S = 0.05  # an epoch takes about half of it


def config(output: Path, *, num_kills: int, in_background: bool = False) -> TrainConfig:
    """A run that draws random numbers in each step, and saves several times a second."""
    return TrainConfig(
        output=output,
        resume="auto",
        async_save=in_background,
        epochs=EPOCHS_PER_KILL * num_kills,
        batch_size=16,
        num_threads=1,
        device="cpu",
        data=DataConfig(name="tabular", table="iris"),
        model=ModelConfig(name="mlp", hidden=(16,), dropout=0.2),
        optimizer=OptimizerConfig(lr=0.01),
    )


def import_before_forks() -> None:
    """Import what takes seconds, so that no forked training has to."""
    for module in _IMPORTED:
        importlib.import_module(module)


def forked(work: Callable[[], object]) -> tuple[int, int]:
    """Start work in a process of its own; returns its id, and where to read what it prints."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)
    os.dup2(writing, sys.stdout.fileno())
    try:
        work()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001  # it must not go on as its parent
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def trained(settings: TrainConfig) -> None:
    """Train to the end."""
    pid, reading = forked(lambda: train(settings))
    with os.fdopen(reading, "rb") as printed:
        printed.read()
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit(f"a training that nobody disturbed ended with {code}")


def killed(settings: TrainConfig, chance: random.Random) -> int:
    """Train, and kill it soon after some epoch; returns the last one that it reported, or 0."""
    pid, reading = forked(lambda: train(settings))
    text = b""
    num_epochs, kill_at = chance.randrange(EPOCHS_PER_KILL - 1), float("inf")
    while True:
        reported = re.findall(rb"^epoch +(\d+) ", text, re.MULTILINE)
        if len(reported) >= num_epochs:
            kill_at = min(kill_at, time.monotonic() + chance.uniform(0, _LONGEST_PAUSE_S))
        pause_s = max(0.0, kill_at - time.monotonic()) if kill_at < float("inf") else None
        if not select.select([reading], [], [], pause_s)[0]:
            break
        if not (chunk := os.read(reading, 1 << 16)):
            break
        text += chunk
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as rest:
        text += rest.read()
    reported = re.findall(rb"^epoch +(\d+) .*\n", text, re.MULTILINE)
    return int(reported[-1]) if reported else 0


def found(checkpoints: Checkpoints) -> int:
    """The epoch that a training would go on after; 0 if it would begin anew."""
    newest = checkpoints.newest()
    return 0 if newest is None else newest[1]["epoch"]


def at_random(
    directory: Path, *, num_kills: int, seed: int, in_background: bool
) -> Iterator[tuple[int, int]]:
    """What each kill came upon: the epoch reported before, and the one found after."""
    settings = config(directory / "killed", num_kills=num_kills, in_background=in_background)
    checkpoints = Checkpoints(settings.output / "checkpoints", keep=settings.keep)
    chance = random.Random(seed)
    reported = 0
    for _ in range(num_kills):
        reported = max(reported, killed(settings, chance))
        yield reported, found(checkpoints)
    trained(settings)


def at_each_step(
    directory: Path, checkpoint: Checkpoint, *, in_background: bool
) -> Iterator[tuple[int, int]]:
    """The same of a process that only saves, killed at one step of the disk after the other."""
    for after in (False, True):
        for step in itertools.count(1):
            place = directory / f"{'after' if after else 'before'}-{step}"
            place.mkdir(parents=True)
            disk = FaultyDisk(step, Fault.KILL, after=after)
            saving = Saving(Checkpoints(place, keep=1, disk=disk), in_background=in_background)
            pid, reading = forked(partial(save_some, saving, checkpoint))
            with os.fdopen(reading, "rb") as printed:
                reported = printed.read().split()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code == 0:
                break
            yield int(reported[-1]) if reported else 0, found(Checkpoints(place, keep=1))


def save_some(saving: Saving, checkpoint: Checkpoint) -> None:
    """Save a few epochs, each better than the one before, and report each."""
    with saving:
        for epoch in range(1, NUM_SAVES + 1):
            metrics = checkpoint["metrics"] | {"val_accuracy": epoch / NUM_SAVES}
            saving.save({**checkpoint, "epoch": epoch, "metrics": metrics, "best": metrics})
            print(epoch, flush=True)


def main() -> None:
    """See above."""
    torch.set_num_threads(1)
    import_before_forks()
    directory, num_kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    trained(config(directory / "whole", num_kills=num_kills))
    newest = Checkpoints(directory / "whole" / "checkpoints", keep=1).newest()
    assert newest is not None
    for way in WAYS:
        kinds = {
            "random": at_random(
                directory / way, num_kills=num_kills, seed=seed, in_background=way == WAYS[1]
            ),
            "steps": at_each_step(directory / way, newest[1], in_background=way == WAYS[1]),
        }
        for kind, seen in kinds.items():
            for reported, epoch in seen:
                print(kind, way, reported, epoch, flush=True)


if __name__ == "__main__":
    main()
