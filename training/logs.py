"""What a run leaves to look at later: `metrics.csv`, a row per epoch, and TensorBoard's files."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from matplotlib.figure import Figure

COLUMNS: tuple[str, ...] = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "samples_per_s",
    "data_wait",
    "epoch_s",
)


class RunLog:
    """A context manager that writes both; on resuming it drops what is to be repeated.

    Args:
        directory: The run directory.
        epoch: The last epoch done before; later rows of an earlier attempt go.
        step: The last step done before.

    Raises:
        TrainingError: A file cannot be written.
    """

    def __init__(self, directory: Path, *, epoch: int, step: int) -> None:
        self._path = directory / "metrics.csv"
        rows: list[dict[str, str]] = []
        if epoch and self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
        self._write(rows, mode="w")
        self._tensorboard = SummaryWriter(directory, purge_step=step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tensorboard.close()

    def step(self, step: int, *, loss: float, lr: float) -> None:
        self._tensorboard.add_scalar("loss/step", loss, step)
        self._tensorboard.add_scalar("lr", lr, step)

    def gradients(self, step: int, norms: Mapping[str, float]) -> None:
        """Norms by parameter name."""
        for name, norm in norms.items():
            self._tensorboard.add_scalar(f"gradient/{name}", norm, step)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Write the row of an epoch; its keys are `COLUMNS`."""
        self._write([row], mode="a")
        for split in ("train", "val"):
            for name in ("loss", "accuracy"):
                value = row[f"{split}_{name}"]
                self._tensorboard.add_scalar(f"{name}/{split}", value, int(row["step"]))
        self._tensorboard.flush()

    def best(self, step: int, *, confusion: Figure, test_accuracy: float | None) -> None:
        """What the best model takes each class for, and how well it does where it was tested."""
        self._tensorboard.add_figure("confusion", confusion, step)
        if test_accuracy is not None:
            self._tensorboard.add_scalar("accuracy/test", test_accuracy, step)

    def _write(self, rows: Sequence[Mapping[str, object]], *, mode: str) -> None:
        try:
            with self._path.open(mode, newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if mode == "w":
                    writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            raise TrainingError(f"cannot write {self._path}: {error.strerror}") from error
