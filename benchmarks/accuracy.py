"""What the training program reaches, how long it takes, and whether it does the same twice."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Training

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "training/configs/digits_lenet.toml"
REPEATABLE = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")  # times are not


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One finished training run."""

    directory: Path
    duration_s: float
    rows: list[dict[str, str]]

    @property
    def checkpoint(self) -> Path:
        return self.directory / "checkpoints" / "best.pt"


def train(directory: Path, *, overrides: Sequence[str] = ()) -> Run:
    """Run the training program once, into `directory`.

    Raises:
        CalledProcessError: It failed; what it said is on standard error.
    """
    started_at = time.monotonic()
    command = [sys.executable, "-m", "training.train", CONFIG, f"output={directory}", *overrides]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    duration_s = time.monotonic() - started_at
    with (directory / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return Run(directory=directory, duration_s=duration_s, rows=rows)


def compare(first: Run, second: Run) -> Training:
    """Two runs of one config with one seed."""
    last, again = first.rows[-1], second.rows[-1]
    return Training(
        config=CONFIG,
        num_epochs=len(first.rows),
        val_accuracy=float(last["val_accuracy"]),
        best_val_accuracy=max(float(row["val_accuracy"]) for row in first.rows),
        final_loss=float(last["train_loss"]).hex(),
        repeated_loss=float(again["train_loss"]).hex(),
        identical=_numbers(first.rows) == _numbers(second.rows),
        durations_s=[round(run.duration_s, 1) for run in (first, second)],
    )


def _numbers(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Losses and accuracies with all their digits: `repr` of a float gives its bits back."""
    return [[row[name] for name in REPEATABLE] for row in rows]
