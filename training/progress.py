"""What the person at the terminal sees: a bar, or plain lines where a bar would be garbage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_LINE_EVERY_S = 10.0


class ProgressReport:
    """A context manager that shows how far the run is.

    Args:
        num_steps: Of the whole run.
        done: Steps done before, when resuming.
        enabled: False on ranks other than 0, which then say nothing.
    """

    def __init__(self, *, num_steps: int, done: int, enabled: bool) -> None:
        self._console = Console(quiet=not enabled, soft_wrap=True)
        self._num_steps = num_steps
        self._step = done
        self._next_line_at = time.monotonic() + _LINE_EVERY_S
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = self._bar.add_task("train", total=num_steps, completed=done, status="")

    def __enter__(self) -> ProgressReport:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count one step."""
        self._step += 1
        self._bar.advance(self._task)

    def status(self, epoch: int, *, loss: float, accuracy: float, samples_per_s: float) -> None:
        """Show the latest numbers: in the bar, or as a line every ten seconds."""
        status = f"loss {loss:.4f}  accuracy {accuracy:.4f}  {samples_per_s:,.0f} samples/s"
        self._bar.update(self._task, description=f"epoch {epoch}", status=status)
        if self._bar.disable and time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + _LINE_EVERY_S
            self.line(f"epoch {epoch}  step {self._step}/{self._num_steps}  {status}")

    def epoch(self, epoch: int, row: Mapping[str, float], *, save_s: float) -> None:
        """Print the line of a finished epoch.

        Args:
            epoch: From 1.
            row: Of `metrics.csv`.
            save_s: How long training stood still for its checkpoint.
        """
        self.line(
            f"epoch {epoch:3d}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}"
            f"  val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}"
            f"  {row['samples_per_s']:,.0f} samples/s, {row['data_wait']:.0%} waiting for data"
            f", {1000 * save_s:,.0f} ms saving"
        )

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False)
