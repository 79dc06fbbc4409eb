"""How long training stands still for a checkpoint: written at once, or in the background.

    python -m benchmarks.stall [key=value ...]

Trains a perceptron of 9.1 million weights with AdamW, by turns both ways, and prints medians. A
checkpoint has 109 MB. Given settings change both runs.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.accuracy import ROOT
from benchmarks.tables import table

CONFIG = "training/configs/tabular_mlp.toml"
SETTINGS = ("model.hidden=[3000,3000]", "optimizer.lr=1e-4", "batch_size=64", "epochs=4", "keep=1")
NUM_ROUNDS = 2
WAYS = {"async_save=false": "at once", "async_save=true": "in the background"}


def main() -> int:
    """Print a table."""
    stalls_ms: dict[str, list[float]] = defaultdict(list)
    epochs_s: dict[str, list[float]] = defaultdict(list)
    for _ in range(NUM_ROUNDS):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="flambeau-stall-") as name:
                output = train(Path(name), way, *sys.argv[1:])
                stalls_ms[way] += output
                epochs_s[way] += epoch_times(Path(name))
    rows = [
        (text, f"{median(stalls_ms[way]):.0f} ms", f"{median(epochs_s[way]):.2f} s")
        for way, text in WAYS.items()
    ]
    print(table(("written", "stall per save", "an epoch, without it"), rows), end="")
    at_once, in_background = (median(stalls_ms[way]) for way in WAYS)
    print(f"\nstall in the background / at once: {in_background / at_once:.3f}")
    return 0


def train(directory: Path, *settings: str) -> list[float]:
    """Train once; returns the milliseconds that it stood still for each checkpoint."""
    command = [sys.executable, "-m", "training.train", CONFIG, f"output={directory}"]
    result = subprocess.run(
        [*command, *SETTINGS, *settings], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found = re.findall(r"([\d,]+) ms saving$", result.stdout, re.MULTILINE)
    return [float(each.replace(",", "")) for each in found]


def epoch_times(directory: Path) -> list[float]:
    """Seconds of training and validating by epoch, but for the first, which warms up."""
    with (directory / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["epoch_s"]) for row in csv.DictReader(file)][1:]


if __name__ == "__main__":
    sys.exit(main())
