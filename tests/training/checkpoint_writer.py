"""A program that saves checkpoints in processes that it kills, each at a random moment.

    checkpoint_writer.py CHECKPOINT DIRECTORY KILLS

prints a line for each kill: the epoch that was saved last before it, and the newest that loads
afterwards; 0 is none.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

from training.checkpoint import Checkpoint, Checkpoints, load

_MOST_SAVED = 6
_SAVE_S = 0.02  # more than one takes


def save_for_ever(checkpoint: Checkpoint, checkpoints: Checkpoints, told: int) -> None:
    """As a run does it, one epoch after the other; tells of each."""
    checkpoints.prepare()
    for epoch in itertools.count(1):
        checkpoint["epoch"] = epoch
        checkpoint["best"] = checkpoint["metrics"] if epoch % 2 else {}
        checkpoints.save(checkpoint)
        os.write(told, b".")


def main() -> None:
    path, directory, kills = sys.argv[1:]
    checkpoint, chance = load(Path(path)), random.Random(0)
    for number in range(int(kills)):
        checkpoints = Checkpoints(Path(directory) / str(number), keep=2)
        heard, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                save_for_ever(checkpoint, checkpoints, told)
            finally:
                os._exit(1)
        os.close(told)
        saved = sum(len(os.read(heard, 1)) for _ in range(chance.randrange(_MOST_SAVED)))
        time.sleep(chance.uniform(0, _SAVE_S))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while more := os.read(heard, 100):
            saved += len(more)
        os.close(heard)
        newest = checkpoints.newest()
        print(saved, newest[1]["epoch"] if newest else 0)


if __name__ == "__main__":
    main()
